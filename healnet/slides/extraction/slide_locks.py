"""Locks on the slides of an output folder, by which any number of runs share it."""

from __future__ import annotations

import errno
import hashlib
import sys
import warnings
from pathlib import Path
from types import TracebackType

if sys.platform != "win32":
    import fcntl

__all__ = ["SlideLocks"]

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
HELD = {errno.EACCES, errno.EAGAIN}


class SlideLocks:
    """A lock per slide that ends with the process that holds it, however the process ends.

    One hidden file in the folder carries all locks, each on one byte of it, whose position is a hash of the slide's name
    (two names on one byte wait for each other, and no harm comes of it). They are POSIX record locks: network disks keep
    them between machines, worker processes do not inherit them, and one process holds all of its own, so two runs within
    one process are not kept apart. On Windows, and where the disk knows no locks, every lock is granted, with a warning.

    Args:
        folder: Folder that the runs share.
    """

    def __init__(self, folder: Path) -> None:
        self._file = (folder / ".extraction.lock").open("ab")
        self._works = sys.platform != "win32"

    def __enter__(self) -> SlideLocks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def take(self, slide: str) -> bool:
        """Take the lock of a slide; False if another process has it."""
        if sys.platform == "win32" or not self._works:
            return True
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _position(slide))
        except OSError as error:
            if error.errno in HELD:
                return False
            if error.errno not in NO_LOCKS:
                raise
            self._works = False
            warnings.warn(
                f"{self._file.name}: this disk keeps no locks ({error.strerror}); give each run its own slides or folder",
                RuntimeWarning,
                stacklevel=2,
            )
        return True

    def release(self, slide: str) -> None:
        """Give the lock of a slide back."""
        if sys.platform != "win32" and self._works:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _position(slide))


def _position(slide: str) -> int:
    return int.from_bytes(hashlib.sha256(slide.encode("utf-8", "surrogateescape")).digest()[:5], "big")
