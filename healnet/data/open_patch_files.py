"""Opening a cohort's patch files at build time: in parallel, and remembered between runs."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset

from healnet._files import atomic_path, shown
from healnet.slides.hdf5 import H5Rows
from healnet.slides.patch_rows import Rows, TensorRows
from healnet.slides.trident_clam_reader import PatchFile, read_patches

__all__ = ["open_files"]

log = logging.getLogger(__name__)

_FORMAT = 1  # of the cache; another number is another layout, and such a cache is read afresh
_ROWS: dict[str, type[Rows]] = {"H5Rows": H5Rows, "TensorRows": TensorRows}
_FEW = 64  # files that one process opens faster than workers start


def open_files(
    paths: Sequence[Path], *, workers: int | None = None, cache: Path | None = None
) -> list[PatchFile]:
    """`read_patches` of every path: each is opened, and its structure checked, but no features are read.

    Args:
        paths: feature files.
        workers: processes that open files side by side, which matters on network disks; None = none for a few files,
            up to 8 for many.
        cache: a JSON file that remembers what was found, used as long as a file's size and time of change are the same.
            Files without coordinates or footprint are not remembered, for a patches file may still turn up.

    Raises:
        ValueError: files that cannot be used; the message has one line for each of the first five.
    """
    known = _read_cache(cache)
    found: dict[Path, PatchFile] = {}
    for path in paths:
        remembered = _remembered(known.get(str(path.absolute())))
        if remembered is not None:
            found[path] = remembered
    fresh = [path for path in dict.fromkeys(paths) if path not in found]
    opened = dict(zip(fresh, _open_all(fresh, workers), strict=True))
    problems = [result for result in opened.values() if isinstance(result, str)]
    if problems:
        more = [f"and {len(problems) - 5} more"] if len(problems) > 5 else []
        raise ValueError("\n".join([*problems[:5], *more]))
    found |= {path: result for path, result in opened.items() if isinstance(result, PatchFile)}
    if cache is not None and fresh:
        _write_cache(cache, known, {path: found[path] for path in fresh})
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


def _open_all(paths: list[Path], workers: int | None) -> list[PatchFile | str]:
    if workers is None:
        workers = 0 if len(paths) <= _FEW else min(8, os.cpu_count() or 1)
    return list(DataLoader(_Opener(paths), batch_size=None, num_workers=workers))


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _remembered(entry: Any) -> PatchFile | None:
    """The file as it was found, if it is still the same and the entry is whole."""
    try:
        if any(_stamp(Path(name)) != stamp for name, stamp in entry["stamps"].items()):
            return None
        rows = [_rows(entry[key]) for key in ("features", "positions")]
        return PatchFile(
            Path(entry["path"]), entry["slide"], entry["encoder"], rows[0], rows[1], float(entry["footprint"])
        )
    except (OSError, KeyError, TypeError, ValueError, AttributeError):
        return None  # anything unexpected means: look at the file itself


def _rows(entry: Mapping[str, Any]) -> Rows:
    fields = dict(entry)
    kind = _ROWS[fields.pop("kind")]
    length, width = fields.pop("shape")
    return kind(path=Path(fields.pop("path")), shape=(int(length), int(width)), **fields)


def _entry(file: PatchFile) -> dict[str, Any] | None:
    if file.positions is None or file.footprint is None:
        return None
    rows = {}
    for key, part in (("features", file.features), ("positions", file.positions)):
        rows[key] = {**asdict(part), "path": str(part.path.absolute()), "kind": type(part).__name__}
    stamps = {str(path.absolute()): _stamp(path) for path in {file.path, file.positions.path}}
    plain = {"slide": file.slide, "encoder": file.encoder, "footprint": file.footprint}
    return {"path": str(file.path.absolute()), **plain, **rows, "stamps": stamps}


def _read_cache(cache: Path | None) -> dict[str, Any]:
    if cache is None or not cache.exists():
        return {}
    try:
        content = json.loads(cache.read_text())
        files = content["files"] if content["format"] == _FORMAT else {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s is not a cache of patch files (%s) and is written anew", shown(cache), error)
        return {}
    return files if isinstance(files, dict) else {}


def _write_cache(cache: Path, known: dict[str, Any], files: Mapping[Path, PatchFile]) -> None:
    for path, file in files.items():
        entry = _entry(file)
        if entry is not None:
            known[str(path.absolute())] = entry
    with atomic_path(cache) as temporary:
        temporary.write_text(json.dumps({"format": _FORMAT, "files": known}))
