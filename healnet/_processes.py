"""Say what a script lacks whose worker processes cannot start."""

from __future__ import annotations

import ast
import functools
import multiprocessing
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.context import get_spawning_popen
from pathlib import Path

__all__ = ["ProcessStartError", "check_loader_start", "check_start", "start_error"]


class ProcessStartError(RuntimeError):
    """A worker process that ends before it begins its work, as of a script without the guard that it needs."""


def check_start(caller: str) -> None:
    """Check that a script can start processes, before it waits for one.

    Where processes are not forked, each imports the script of its parent, and without the guard would run it again: parent
    and child then waited for each other. Python writes what a new process needs to a pipe, and waits for ever where that is
    more than a pipe holds and the process has ended meanwhile. So outside of a guard a process that does nothing is tried
    first, once.

    Args:
        caller: Name of the function that starts processes.

    Raises:
        ProcessStartError: This process is still importing the script that started it, or the process that was tried ended
            before it began.
    """
    # Set by Python itself for the same check before a process is started, which may come too late for us.
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ProcessStartError(
            f"{caller} was called while a worker process of it started. {_advice(caller)}"
        )
    starting = get_spawning_popen()  # knows the method of a loader's own `multiprocessing_context`
    method = multiprocessing.get_start_method() if starting is None else starting.method
    if method == "fork" or _is_guarded():
        return
    code = _trial(method)
    if code:
        raise start_error(caller, code)


def check_loader_start() -> None:
    """Check, when a dataset is pickled, that the worker of a DataLoader that it is sent to can start.

    Raises:
        ProcessStartError: The worker would end before it began.
    """
    if get_spawning_popen() is not None:
        check_start("DataLoader")


def _is_guarded() -> bool:
    """Whether the script is now within an ``if`` that asks for its ``__name__``; a notebook has no script to import."""
    main = sys.modules["__main__"]
    path = getattr(main, "__file__", None)
    if path is None or not Path(path).is_file():
        return True
    try:
        tree = ast.parse(Path(path).read_bytes())
    except (SyntaxError, ValueError):  # a program that is no source
        return False
    guards = [node for node in ast.walk(tree) if isinstance(node, ast.If) and _asks_for_name(node.test)]
    # The main thread's, because another thread does not stand in the script.
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None:
        if frame.f_globals is vars(main) and frame.f_code.co_name == "<module>":
            line = frame.f_lineno
            if any(guard.body[0].lineno <= line <= (guard.body[-1].end_lineno or 0) for guard in guards):
                return True
        frame = frame.f_back
    return False


def _asks_for_name(test: ast.expr) -> bool:
    return any(isinstance(part, ast.Name) and part.id == "__name__" for part in ast.walk(test))


@functools.cache
def _trial(method: str) -> int | None:
    """Exit code of a process that does nothing."""

    def run() -> int | None:
        # mypy knows no Process of a context in general.
        process = multiprocessing.get_context(method).Process(target=_nothing)  # type: ignore[attr-defined]
        process.start()
        process.join()
        code: int | None = process.exitcode
        return code

    # In a thread of its own: Python keeps, for each thread, which process it is starting, and this runs during a start.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(run).result()


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
