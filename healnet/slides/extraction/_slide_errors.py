"""Describe an error of one slide in a line, that of a dead worker too, and free what an error keeps alive."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

from healnet._files import shown

__all__ = ["SlideError", "clear_tracebacks", "error_line"]


class SlideError(Exception):
    """An error of one slide in another process, whose message is the whole line of `error_line`."""


def error_line(failure: Exception, path: Path) -> str:
    """Return the error as one line.

    It is the first line of its message, or, where a worker sent a whole traceback as the message, the line that names the
    error. Of a worker that ended it says which slide the worker read.
    """
    text = str(failure).strip()
    if isinstance(failure, SlideError):
        return text
    if re.match(r"DataLoader worker .* (is killed by signal|exited unexpectedly)", text):
        return f"{type(failure).__name__}: {shown(path)}: the process that read it died ({text.rstrip('. ')})"
    if text.startswith("Caught ") and "Traceback (most recent call last)" in text:
        # Below the last frame, whose lines are indented, the error begins at the margin.
        below = text[text.rindex('\n  File "') :].splitlines()[2:]
        return next(line for line in [*below, text] if line and not line.startswith(" "))
    return f"{type(failure).__name__}: {text.splitlines()[0] if text else ''}"


def clear_tracebacks(failure: BaseException | None) -> None:
    """Clear the local variables in the frames of an error and of those that caused it, above all the failed slide's loader.

    Worker processes that are forked for the next slide would inherit that loader and try to shut down its workers, which are
    not theirs: seen as ten seconds of waiting after each bad slide.
    """
    while failure is not None:
        traceback.clear_frames(failure.__traceback__)
        failure = failure.__cause__ or failure.__context__
