"""A slide is locked by one process at a time, and free again once that process has ended, however it ended."""

import os
import signal
import time

import pytest

from healnet.slides.slide_locks import SlideLocks


def other_process_takes(folder, slide):
    """Whether another process gets the lock."""
    child = os.fork()
    if child == 0:
        with SlideLocks(folder) as locks:
            os._exit(not locks.take(slide))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_lock_keeps_other_processes_out_until_it_is_given_back(tmp_path):
    with SlideLocks(tmp_path) as locks:
        assert locks.take("a")
        assert locks.take("a")  # its own
        assert not other_process_takes(tmp_path, "a")
        assert other_process_takes(tmp_path, "b")
        locks.release("a")
        assert other_process_takes(tmp_path, "a")


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_lock_ends_with_its_process_though_its_workers_live_on(tmp_path, end):
    ready = tmp_path / "ready"
    child = os.fork()
    if child == 0:
        locks = SlideLocks(tmp_path)
        locks.take("a")
        if os.fork() == 0:  # a worker, which inherits the open file
            ready.touch()
            time.sleep(3)
            os._exit(0)
        time.sleep(60)
    while not ready.exists():
        time.sleep(0.01)
    assert not other_process_takes(tmp_path, "a")
    os.kill(child, end)
    os.waitpid(child, 0)
    assert other_process_takes(tmp_path, "a")
