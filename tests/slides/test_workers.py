"""Workers end with their run, however early it was killed."""

import subprocess
import sys
import textwrap

import pytest

SCRIPT = """
import multiprocessing, os, signal, sys, time
from healnet.slides._workers import end_with_run

def work(delay):
    time.sleep(delay)
    end_with_run(0)
    time.sleep(60)

def remains(group):
    try:
        os.killpg(group, 0)
        return True
    except ProcessLookupError:
        return False

run = os.fork()
if run == 0:
    os.setpgid(0, 0)
    multiprocessing.get_context("fork").Process(target=work, args=(float(sys.argv[1]),)).start()
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)
os.waitpid(run, 0)
until = time.monotonic() + 20
while remains(run) and time.monotonic() < until:
    time.sleep(0.05)
if remains(run):
    os.killpg(run, signal.SIGKILL)
    sys.exit("the worker stayed")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="forks and process groups")
@pytest.mark.parametrize("delay", [0.0, 0.8])
def test_a_worker_ends_after_its_run_was_killed_even_before_it_began_to_watch(delay):
    subprocess.run([sys.executable, "-c", textwrap.dedent(SCRIPT), str(delay)], check=True, timeout=60)
