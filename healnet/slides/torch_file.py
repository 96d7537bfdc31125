"""PyTorch files that hold one array: tensors as `torch.save` writes them, and NumPy arrays that TRIDENT pickles.

Nothing in such a file is ever executed. Tensors go through ``torch.load(weights_only=True)``, memory-mapped where the
format allows. NumPy arrays, which that refuses, go through an unpickler that knows five names and builds the array itself.
"""

from __future__ import annotations

import collections
import io
import math
import pickle
import pickletools
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from healnet._files import shown

__all__ = ["load_array", "unpickle_array"]

# A pickled array takes about 40 opcodes and a dozen memo places. The C unpickler allocates up to any place a file names.
MAX_OPCODES = 10_000
ZIP_SIGNATURE = b"PK\x03\x04"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
NUMBER_CODE = re.compile(r"[biuf](1|2|4|8)")


def load_array(path: Path) -> Tensor:
    """The one tensor or NumPy array of a PyTorch file, on the CPU; memory-mapped if it is a tensor in a zip archive.

    Raises:
        ValueError: a damaged file, other contents, or a pickle that asks for anything but arrays and tensors.
    """
    try:
        with path.open("rb") as file:
            zipped = file.read(4) == ZIP_SIGNATURE  # as torch.load itself tells the formats apart
        with _pickle_stream(path, zipped) as stream:
            if _names_torch(stream):
                loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
            else:
                array = _unpickle(stream)
                loaded = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))
    except (
        Exception
    ) as error:  # torch and pickle answer damage with a dozen types, from KeyError to RuntimeError
        raise ValueError(
            f"{shown(path)}: expected one tensor or NumPy array in a PyTorch file, nothing of which is executed; "
            f"got {_first_line(error)}"
        ) from error
    if not isinstance(loaded, Tensor):
        raise ValueError(f"{shown(path)}: expected one tensor or NumPy array, got {_described(loaded)}")
    if loaded.layout != torch.strided or loaded.is_quantized:
        raise ValueError(f"{shown(path)}: expected a dense tensor, got {loaded.layout} of {loaded.dtype}")
    stored = loaded.untyped_storage().nbytes()
    if loaded.numel() * loaded.element_size() > stored:
        raise ValueError(
            f"{shown(path)}: expected all values of a tensor of shape {tuple(loaded.shape)} in the file, got {stored} bytes"
        )
    return loaded.detach()


def unpickle_array(data: bytes) -> np.ndarray[Any, Any]:
    """The NumPy array in a pickle of any protocol, built from its shape, type and bytes alone.

    Raises:
        pickle.UnpicklingError: the pickle names, calls or returns anything else.

    Example:
        >>> unpickle_array(pickle.dumps(np.arange(3.0)))
        array([0., 1., 2.])
        >>> unpickle_array(pickle.dumps(print))
        Traceback (most recent call last):
        _pickle.UnpicklingError: a pickle that asks for builtins.print, where only NumPy arrays and tensors are read
    """
    return _unpickle(io.BytesIO(data))


def _unpickle(stream: IO[bytes]) -> np.ndarray[Any, Any]:
    start = stream.tell()
    for _ in _opcodes(stream):  # looked through to its end before anything is built
        pass
    stream.seek(start)
    result = _ArrayUnpickler(stream).load()
    if not isinstance(result, _Array) or result.values is None:
        raise pickle.UnpicklingError(f"a pickle of {_described(result)}")
    return result.values


def _pickle_stream(path: Path, zipped: bool) -> IO[bytes]:
    """A stream at the start of the object's pickle, in each of the three formats."""
    if zipped:
        with zipfile.ZipFile(path) as archive:
            members = [
                member for member in archive.infolist() if member.filename.split("/")[-1] == "data.pkl"
            ]
            if len(members) != 1 or members[0].compress_type != zipfile.ZIP_STORED:
                raise ValueError("an archive without exactly one data.pkl, stored uncompressed")
            return io.BytesIO(archive.read(members[0]))
    stream = path.open("rb")
    try:
        if [argument for _, argument in _opcodes(stream) if argument is not None][-1:] == [LEGACY_MAGIC]:
            for _ in range(
                2
            ):  # the version of the format and the traits of the machine come before the object
                collections.deque(_opcodes(stream), maxlen=0)
        else:
            stream.seek(0)
    except BaseException:
        stream.close()
        raise
    return stream


def _opcodes(stream: IO[bytes]) -> Iterator[tuple[str, Any]]:
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        place = int(argument or 0) if opcode.name in {"PUT", "BINPUT", "LONG_BINPUT"} else 0
        if max(count, place) > MAX_OPCODES:
            raise pickle.UnpicklingError("a pickle of more than one array")
        yield opcode.name, argument


def _names_torch(stream: IO[bytes]) -> bool:
    """Whether the pickle asks for anything of torch; leaves the stream where it was."""
    start = stream.tell()
    found = any(
        isinstance(argument, str) and argument.startswith("torch.") for _, argument in _opcodes(stream)
    )
    stream.seek(start)
    return found


def _first_line(error: Exception) -> str:
    text = str(error).strip().split("\n")[0].split(". ")[0]
    return text or type(error).__name__


def _described(value: object) -> str:
    if isinstance(value, dict):
        return f"a dict with {sorted(map(str, value))[:6]}"
    return f"a value of type {type(value).__name__}"


class _Array:
    """What a pickled array is until its state arrives."""

    __slots__ = ("values",)

    def __init__(self) -> None:
        self.values: np.ndarray[Any, Any] | None = None

    def __setstate__(self, state: Any) -> None:
        match state:
            case (int(), shape, _Dtype() as dtype, bool(fortran), bytes(raw)):
                self.values = _build(raw, dtype, shape, "F" if fortran else "C")
            case _:
                raise pickle.UnpicklingError("an array without (version, shape, type, order, bytes)")


class _Dtype:
    """The number type of a pickled array."""

    __slots__ = ("code", "order")

    def __init__(self, code: object, *_: object) -> None:
        if not isinstance(code, str) or not NUMBER_CODE.fullmatch(code):
            raise pickle.UnpicklingError(f"an array of type {code!r}, not of numbers")
        self.code = code
        self.order = "="

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("an array without byte order")
        self.order = state[1]


def _build(raw: bytes | bytearray, dtype: _Dtype, shape: Any, order: Any) -> np.ndarray[Any, Any]:
    numbers = np.dtype(dtype.order + dtype.code)
    if not isinstance(shape, tuple) or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise pickle.UnpicklingError(f"an array of shape {shape!r}")
    if math.prod(shape) * numbers.itemsize != len(raw) or order not in ("C", "F"):
        raise pickle.UnpicklingError(
            f"an array that claims shape {shape} of {numbers} and has {len(raw)} bytes"
        )
    return np.frombuffer(raw, numbers).reshape(shape, order=order)


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    if not isinstance(raw, bytes | bytearray) or not isinstance(dtype, _Dtype):
        raise pickle.UnpicklingError("an array without bytes and a number type")
    array = _Array()
    array.values = _build(raw, dtype, shape, order)
    return array


def _encode(text: Any, encoding: Any) -> bytes:
    # Protocol 2 writes bytes as latin-1 text; no other codec is looked up for a stranger.
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError(f"a pickle that asks for the codec {encoding!r}")
    return text.encode("latin-1")


class _Name:
    """A function that a pickle may call and nothing more: the BUILD opcode could otherwise alter it."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call

    def __call__(self, *arguments: Any) -> Any:
        return self.call(*arguments)

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("a pickle that alters a function")


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # numpy.core until NumPy 2, numpy._core since.
        known: dict[str, Callable[..., Any]] = {
            "numpy.core.multiarray._reconstruct": lambda *_: _Array(),
            "numpy.core.numeric._frombuffer": _from_buffer,
            "numpy.ndarray": lambda *_: _Array(),
            "numpy.dtype": _Dtype,
            "_codecs.encode": _encode,
            "__builtin__.bytes": lambda: (
                b""
            ),  # what protocol 2 makes of no bytes: the array of an empty slide
        }
        wanted = f"{module}.{name}"
        call = known.get(wanted.replace("numpy._core.", "numpy.core."))
        if call is None:
            raise pickle.UnpicklingError(
                f"a pickle that asks for {wanted}, where only NumPy arrays and tensors are read"
            )
        return _Name(call)

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("a pickle that refers to storage outside itself")
