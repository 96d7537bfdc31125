"""Open a cohort's patch files when it is built: side by side, and with all problems in one message."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset

from healnet._files import shown
from healnet.slides.features.trident_clam_reader import PatchFile, read_patches

__all__ = ["open_files"]

FEW = 64  # files that one process opens faster than workers start


def open_files(paths: Sequence[Path], *, workers: int | None = None) -> list[PatchFile]:
    """`read_patches` of every path: each is opened, and its structure checked, but no features are read.

    Args:
        paths: Feature files.
        workers: Processes that open files side by side, which matters on network disks; None = none for a few files, up to
            8 for many.

    Raises:
        ValueError: Files that cannot be used; the message has one line for each of the first five.
    """
    unique = list(dict.fromkeys(paths))
    if workers is None:
        workers = 0 if len(unique) <= FEW else min(8, os.cpu_count() or 1)
    opened = list(DataLoader(_Opener(unique), batch_size=None, num_workers=workers))
    problems = [result for result in opened if isinstance(result, str)]
    if problems:
        more = [f"and {len(problems) - 5} more"] if len(problems) > 5 else []
        raise ValueError("\n".join([*problems[:5], *more]))
    found = dict(zip(unique, opened, strict=True))
    return [found[path] for path in paths]


class _Opener(Dataset[Any]):
    """Opens file i; a DataLoader's workers know how to start on every platform, and what to do when one dies."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, position: int) -> PatchFile | str:
        try:
            return read_patches(self.paths[position])
        except (ValueError, OSError) as error:
            message = str(error)
            name = shown(self.paths[position])
            return message if name in message else f"{name}: {message}"
