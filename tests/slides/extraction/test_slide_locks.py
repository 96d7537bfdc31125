"""A slide is locked by one process at a time, and free again once that process has ended, however it ended."""

import errno
import os
import re
import signal
import subprocess
import sys

import filelock
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


def test_two_runs_within_one_process_are_kept_apart(tmp_path):
    with SlideLocks(tmp_path) as one, SlideLocks(tmp_path) as another:
        assert one.take("a")
        assert not another.take("a")
        one.release("a")
        one.release("a")  # no lock of its own any more
        assert another.take("a")
        assert not one.take("a")


def test_locks_end_with_the_block_and_their_files_stay(tmp_path):
    with SlideLocks(tmp_path) as locks:
        assert locks.take("a")
    with SlideLocks(tmp_path) as locks:
        assert locks.take("a")
    assert [path.name for path in (tmp_path / ".locks").iterdir()] == ["a.lock"]


def test_a_disk_without_locks_grants_every_lock_and_says_so_once(tmp_path, monkeypatch):
    def refuse(self, **options):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    message = f"{tmp_path / '.locks'}: this disk keeps no locks (No locks available); give each run its own slides or folder"
    with SlideLocks(tmp_path) as locks:
        with pytest.warns(RuntimeWarning, match=f"^{re.escape(message)}$"):
            assert locks.take("a")
        assert locks.take("b")


def test_another_error_of_a_lock_is_raised(tmp_path, monkeypatch):
    def refuse(self, **options):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with SlideLocks(tmp_path) as locks, pytest.raises(OSError, match="Input/output error"):
        locks.take("a")


@pytest.mark.posix
@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_a_lock_ends_with_its_process_though_its_workers_live_on(tmp_path, other_process_takes, name):
    end = getattr(signal, name)
    with start(HOLDER, tmp_path) as holder:
        try:
            assert holder.stdout.readline() == "ready\n"
            assert not other_process_takes("a")
            holder.send_signal(end)
            assert holder.wait() == -end
            assert other_process_takes("a")
        finally:
            os.killpg(holder.pid, signal.SIGKILL)  # raises if the worker is not there any more
