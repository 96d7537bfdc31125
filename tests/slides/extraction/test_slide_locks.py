"""A slide is locked by one process at a time, and free again once that process has ended, however it ended."""

import os
import signal
import subprocess
import sys

import pytest

from healnet.slides.extraction.slide_locks import SlideLocks

# Processes of their own instead of forks of this one, which has the threads of other tests.
OTHER = """
import sys
from pathlib import Path
from healnet.slides.extraction.slide_locks import SlideLocks

for slide in sys.stdin:
    with SlideLocks(Path(sys.argv[1])) as locks:
        print(locks.take(slide.strip()), flush=True)
"""
HOLDER = """
import os, sys, time
from pathlib import Path
from healnet.slides.extraction.slide_locks import SlideLocks

locks = SlideLocks(Path(sys.argv[1]))
locks.take("a")
if os.fork() == 0:  # a worker, which inherits the open file
    print("ready", flush=True)
time.sleep(300)
"""


def start(code, folder):
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture
def other_process_takes(tmp_path):
    """A function that says whether another process gets the lock; it gives it back."""
    with start(OTHER, tmp_path) as process:

        def takes(slide):
            process.stdin.write(f"{slide}\n")
            process.stdin.flush()
            return {"True\n": True, "False\n": False}[process.stdout.readline()]

        yield takes


def test_a_lock_keeps_other_processes_out_until_it_is_given_back(tmp_path, other_process_takes):
    with SlideLocks(tmp_path) as locks:
        assert locks.take("a")
        assert locks.take("a")  # its own
        assert not other_process_takes("a")
        assert other_process_takes("b")
        locks.release("a")
        assert other_process_takes("a")


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_lock_ends_with_its_process_though_its_workers_live_on(tmp_path, other_process_takes, end):
    with start(HOLDER, tmp_path) as holder:
        try:
            assert holder.stdout.readline() == "ready\n"
            assert not other_process_takes("a")
            holder.send_signal(end)
            assert holder.wait() == -end
            assert other_process_takes("a")
        finally:
            os.killpg(holder.pid, signal.SIGKILL)  # raises if the worker is not there any more
