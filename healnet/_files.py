"""Atomic writes, paths as text, and imports of optional packages."""

from __future__ import annotations

import importlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["atomic_path", "leftovers", "need", "shown"]


def shown(path: str | os.PathLike[str]) -> str:
    r"""A path as text that can always be printed and logged: bytes that are not UTF-8 are escaped.

    Example:
        >>> shown(os.fsdecode(b"slides/caf\xe9.h5"))
        'slides/caf\\xe9.h5'
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def need(module: str, package: str, purpose: str) -> Any:
    """Import a package that only some users need.

    Raises:
        ImportError: The package is absent; says what needs it and what to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{purpose} needs {module}; install it with `pip install {package}`") from error


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it when the block ends well, and vanishes when it does not.

    The temporary file lies in the same folder, because only within one file system is a replacement atomic: a reader
    sees the old file or the whole new one, whenever the writer is killed. Its name is hidden, ends in ``.part`` and is
    new every time, so that two writers never share one; `leftovers` lists those of killed writers.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "table.csv"
        >>> with atomic_path(target) as temporary:
        ...     _ = temporary.write_text("a,b")
        >>> target.read_text()
        'a,b'
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            # Before the new name is visible: a power cut may otherwise keep the name and lose the bytes.
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def leftovers(*folders: Path) -> dict[Path, list[Path]]:
    """Temporary files of `atomic_path` in some folders, by the file that they were to become.

    They are those of killed writers and of writers still at work.
    """
    found: dict[Path, list[Path]] = {}
    for folder in dict.fromkeys(folders):
        for path in folder.iterdir():
            if path.name.startswith(".") and path.name.endswith(".part"):
                target = folder / path.name[1:].rsplit(".", 2)[0]
                found.setdefault(target, []).append(path)
    return found
