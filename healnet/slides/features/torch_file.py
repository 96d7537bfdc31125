"""Read PyTorch files that hold one tensor, or one NumPy array as TRIDENT saves it.

Nothing in such a file is ever executed: all of it goes through ``torch.load(weights_only=True)``, to which the four names of
a pickled NumPy array are added. (The unpickler that stood here took 246 lines and 2.8 times as long for an array; what
it read beyond this were plain pickles and other protocols than 2, which no tool of the field writes.)
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from healnet._files import shown

__all__ = ["load_array"]

ZIP_SIGNATURE = b"PK\x03\x04"
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# `numpy.core` until NumPy 2, `numpy._core` since; `bytes` is called for the array of a slide without patches.
_reconstruct = np.empty(0).__reduce__()[0]
NUMPY_NAMES: list[Any] = [
    (_reconstruct, "numpy.core.multiarray._reconstruct"),
    (_reconstruct, "numpy._core.multiarray._reconstruct"),
    (bytes, "builtins.bytes"),
    np.ndarray,
    np.dtype,
    *(type(np.dtype(code)) for code in ("f2", "f4", "f8")),
]


def load_array(path: Path) -> Tensor:
    """The one floating-point tensor or NumPy array of a PyTorch file; memory-mapped where it is a tensor in a zip archive.

    Raises:
        ValueError: a damaged file, other contents, or a pickle that names anything but arrays and tensors.
    """
    try:
        with path.open("rb") as file:
            zipped = file.read(4) == ZIP_SIGNATURE  # as torch.load itself tells the formats apart
        if zipped:
            _refuse_compressed(path)
        with torch.serialization.safe_globals(NUMPY_NAMES):
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
        if isinstance(loaded, np.ndarray):
            loaded = torch.from_numpy(loaded.astype(loaded.dtype.newbyteorder("="), order="C"))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{shown(path)}: no such file any more; it was there when it was opened"
        ) from error
    except Exception as error:  # torch answers damage with a dozen types, from KeyError to RuntimeError
        raise ValueError(
            f"{shown(path)}: expected one tensor or NumPy array in a PyTorch file, nothing of which is executed; "
            f"got {_cause(error)}"
        ) from error
    if not isinstance(loaded, Tensor):
        raise ValueError(f"{shown(path)}: expected one tensor or NumPy array, got {_described(loaded)}")
    if loaded.layout != torch.strided or loaded.is_quantized or loaded.device.type != "cpu":
        raise ValueError(
            f"{shown(path)}: expected a dense tensor with its values, got {loaded.layout} of {loaded.dtype} "
            f"on {loaded.device}"
        )
    if loaded.dtype not in FLOATS:
        raise ValueError(
            f"{shown(path)}: expected floating-point features of 16, 32 or 64 bits, got {loaded.dtype}"
        )
    stored = loaded.untyped_storage().nbytes()
    if loaded.numel() * loaded.element_size() > stored:
        raise ValueError(
            f"{shown(path)}: expected all values of a tensor of shape {tuple(loaded.shape)} in the file, got {stored} bytes"
        )
    return loaded.detach()


def _refuse_compressed(path: Path) -> None:
    """PyTorch maps the values from the file as they lie there: a compressed member would be read as its compressed bytes."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"an archive whose member {member.filename} is compressed")


def _cause(error: Exception) -> str:
    """Name the cause in one line, without the advice to trust the file that follows in torch's own message."""
    text = str(error)
    named = re.search(r"[Uu]nsupported (?:global: )?GLOBAL (\S+)", text)
    if named:
        return f"a pickle that asks for {named[1].removeprefix('builtins.')}, where only NumPy arrays and tensors are read"
    inner = re.search(r"(?:WeightsUnpickler error:|\[enforce fail at \S+\] \.)\s*(.+)", text)
    return inner[1] if inner else (text.strip().split("\n")[0].split(". ")[0] or type(error).__name__)


def _described(value: object) -> str:
    if isinstance(value, dict):
        return f"a dict with {sorted(map(str, value))[:6]}"
    return f"a value of type {type(value).__name__}"
