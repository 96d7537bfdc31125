"""Say what a script lacks whose worker processes cannot start."""

from __future__ import annotations

import functools
import multiprocessing
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

__all__ = ["ProcessStartError", "check_start", "refuse_while_starting", "start_error"]

GUARD = re.compile(r"""__name__\s*==\s*["']__main__["']""")


class ProcessStartError(RuntimeError):
    """A worker process that ends before it begins its work, as of a script without the guard that it needs."""


def refuse_while_starting(caller: str) -> None:
    """Raise in a worker process that is still importing the script that started it.

    Where processes are not forked, each imports the script of its parent, and without the guard would run it again: parent
    and child then waited for each other.

    Args:
        caller: Name of the function that starts processes.

    Raises:
        ProcessStartError: This process is not yet at its work.
    """
    # Set by Python itself for the same check before a process is started, which may come too late for us.
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ProcessStartError(
            f"{caller} was called while a worker process of it started. {_advice(caller)}"
        )


@functools.cache
def check_start(caller: str) -> None:
    """Start a process that does nothing, once, where the script has no guard.

    Python writes what a new process needs to a pipe, and waits for ever where that is more than a pipe holds and the process
    has ended meanwhile.

    Raises:
        ProcessStartError: The process ended before it began.
    """
    if multiprocessing.get_start_method() == "fork" or _has_guard():
        return
    # In a thread of its own: Python keeps for each which process it is starting, and this may be asked for meanwhile.
    with ThreadPoolExecutor(1) as thread:
        code = thread.submit(_trial).result()
    if code:
        raise start_error(caller, code)


def _has_guard() -> bool:
    """Whether the script says somewhere what the first process alone does; a notebook has no script."""
    path = getattr(sys.modules["__main__"], "__file__", None)
    return (
        path is None or not Path(path).is_file() or bool(GUARD.search(Path(path).read_text(errors="replace")))
    )


def _trial() -> int | None:
    process = multiprocessing.Process(target=_nothing)
    process.start()
    process.join()
    return process.exitcode


def _nothing() -> None:
    pass


def start_error(caller: str, exit_code: int) -> ProcessStartError:
    """Make the error of a parent whose worker process ended before it began."""
    return ProcessStartError(
        f"a worker process of {caller} ended before it began (exit code {exit_code}), see its own error. "
        f"{_advice(caller)}"
    )


def _advice(caller: str) -> str:
    return (
        "Where processes are not forked (macOS, Windows, Linux from Python 3.14 on), each imports the script that started "
        "it, so the script has to say what only the first process does:\n\n"
        f'if __name__ == "__main__":\n    {caller}(...)\n'
    )
