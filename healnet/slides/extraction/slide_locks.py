"""Locks on the slides of an output folder, by which any number of runs share it."""

from __future__ import annotations

import errno
import warnings
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

__all__ = ["SlideLocks"]

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}


class SlideLocks:
    """A lock per slide that ends with the process that holds it, however the process ends.

    Each is an empty file in the hidden folder ``.locks``, which stays: if it were removed, two runs could hold locks of one
    name. The system keeps them (`flock`, on Windows `msvcrt.locking`), on network disks between machines, too; worker
    processes do not inherit them. Where the disk knows no locks, every lock is granted, with a warning.

    Args:
        folder: Folder that the runs share.

    Raises:
        OSError: A lock file that this user cannot write.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / ".locks"
        self._folder.mkdir(exist_ok=True)
        self._held: dict[str, FileLock] = {}
        self._works = True

    def __enter__(self) -> SlideLocks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for slide in list(self._held):
            self.release(slide)

    def take(self, slide: str) -> bool:
        """Take the lock of a slide; False if another run has it."""
        if slide in self._held or not self._works:
            return True
        # No soft lock, which a killed process would leave behind for ever.
        lock = FileLock(self._folder / f"{slide}.lock", thread_local=False, fallback_to_soft=False)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return False
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            self._works = False
            warnings.warn(
                f"{self._folder}: this disk keeps no locks ({error.strerror}); give each run its own slides or folder",
                RuntimeWarning,
                stacklevel=2,
            )
            return True
        self._held[slide] = lock
        return True

    def release(self, slide: str) -> None:
        """Give the lock of a slide back."""
        lock = self._held.pop(slide, None)
        if lock is not None:
            lock.release()
