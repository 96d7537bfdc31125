"""Workers end with their run, however early it was killed."""

import subprocess
import sys

import pytest

SCRIPT = """
import multiprocessing, os, signal, sys, time
from pathlib import Path
from healnet.slides.extraction._workers import end_with_run

def work(run, begun):
    while late and os.getppid() == run:
        time.sleep(0.01)
    end_with_run(0)
    os.write(begun, b".")
    time.sleep(60)

def remains(group):
    # A zombie counts as gone: without an init process, as in a container, it stays.
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of = file.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(of) == group and state != "Z":
            return True
    return False

late = sys.argv[1] == "True"
run = os.fork()
if run == 0:
    os.setpgid(0, 0)
    read, write = os.pipe()
    multiprocessing.get_context("fork").Process(target=work, args=(os.getpid(), write)).start()
    os.close(write)
    if not late:
        os.read(read, 1)
    os.kill(os.getpid(), signal.SIGKILL)
os.waitpid(run, 0)
until = time.monotonic() + 20
while remains(run) and time.monotonic() < until:
    time.sleep(0.05)
if remains(run):
    os.killpg(run, signal.SIGKILL)
    sys.exit("the worker stayed")
"""


@pytest.mark.posix
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forks and process groups")
@pytest.mark.parametrize("late", [False, True])
def test_a_worker_ends_after_its_run_was_killed_even_before_it_began_to_watch(late):
    subprocess.run([sys.executable, "-c", SCRIPT, str(late)], check=True, timeout=60)
