"""Refuse a slide before it is encoded when the disk has no space for its files, and say how much they need."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterable
from pathlib import Path

from healnet._files import shown
from healnet.slides.features.feature_writer import FeatureFolder

__all__ = ["NO_SPACE", "bytes_needed", "full_disk_error", "refuse_full_disk"]

NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def bytes_needed(folders: Iterable[FeatureFolder], num_tiles: int) -> int:
    """Estimate the bytes of a slide's files: features (twice in CLAM's layout), coordinates and 64 KiB of overhead."""
    per_tile = 0
    for folder in folders:
        copies = 2 if folder.layout == "clam" else 1
        per_tile += folder.kind.dim * folder.kind.dtype.itemsize * copies + 16
    return num_tiles * per_tile + (1 << 16)


def refuse_full_disk(folder: Path, path: Path, needed: int) -> None:
    """Raise if the disk of a folder has less free space than needed.

    Raises:
        OSError: As `full_disk_error`.
    """
    if shutil.disk_usage(folder).free < needed:
        raise full_disk_error(path, needed, errno.ENOSPC)


def full_disk_error(path: Path, needed: int, number: int | None) -> OSError:
    """Make the error of a full disk, which names the file and how many megabytes its slide needs."""
    return OSError(
        number, f"no space on the disk: the files of this slide need {needed / 1e6:.1f} MB", shown(path)
    )
