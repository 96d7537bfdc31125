"""End a block of code on SIGTERM and SIGHUP as Ctrl-C does."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["stopped_by_signals"]


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Raise SystemExit(128 + signal) in the block on SIGTERM or SIGHUP, so that what is done at its end is done."""

    def stop(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    names = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    # A handler of the user's own stays, and so does nohup's ignoring; threads cannot set any.
    main = threading.current_thread() is threading.main_thread()
    mine = [number for number in names if main and signal.getsignal(number) == signal.SIG_DFL]
    for number in mine:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, signal.SIG_DFL)
