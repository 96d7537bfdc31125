"""Inputs that are read in pieces and never held at once: `Pieces` of one patient, and a `Stream` of several.

A `Stream` takes the place of a tensor, `Masked` or `PatchBag` in the inputs of a model, for data that do not fit in memory,
such as every pixel of a slide. The model reads it once per fusion layer, and again per layer to train or to trace, and keeps
no more than a piece. What it gives is, to rounding, what the same data give in memory: positions are those of the whole.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from healnet.nn.extent import bounding_boxes

__all__ = ["DIGEST", "Block", "Pieces", "Stream"]

Block = tuple[slice, ...]
DIGEST = 2**40  # numbers of `Pieces.digests`, whose sums over many processes fit into 64 bits


class Pieces:
    """Data of one patient that are read block by block, as often as a model needs them.

    Args:
        values: Source of the numbers: anything with a `shape` that takes a tuple of slices, such as a NumPy memory map, a
            dataset of an HDF5 or Zarr file, a tensor, or `healnet.slides.SlidePixels`. Reading a slice twice gives the same.
        block: Number of elements that are read at once, per axis. Axes that are not counted here (at most one, the last) are
            channels and are read whole.
        mask: Source of bool, True = real, over the same axes without channels; None where every element is real.
        coords: Coordinates of the patches, where the elements are patches of a slide: a tensor or array in memory.

    Shape:
        values: (*axes, c), or (f,) for the features of a table; mask: (*axes); coords: (n, 2) or (n, 3)

    Raises:
        ValueError: Sizes that do not fit together, by name.

    Example:
        >>> scan = Pieces(torch.zeros(5, 4, 1), block=(2, 4))  # 5 x 4 pixels of one channel, two rows at once
        >>> [tuple(scan.read(block)[0].shape) for block in scan.blocks()]
        [(2, 4, 1), (2, 4, 1), (1, 4, 1)]
    """

    def __init__(self, values: Any, block: Sequence[int], mask: Any = None, coords: Any = None) -> None:
        shape = tuple(int(size) for size in values.shape)
        self.block = tuple(int(size) for size in block)
        axes = len(self.block)
        if not 1 <= axes <= len(shape) <= axes + 1:
            raise ValueError(
                f"expected a block with one size per axis of values {shape}, channels left out or not, got {self.block}"
            )
        if min(self.block) < 1:
            raise ValueError(f"expected a block of at least 1 element per axis, got {self.block}")
        self.sizes = shape[:axes]
        self.channels = shape[axes] if len(shape) > axes else None
        if mask is not None and tuple(mask.shape) != self.sizes:
            raise ValueError(f"expected a mask of shape {self.sizes}, got {tuple(mask.shape)}")
        self.coords = None if coords is None else torch.as_tensor(coords)
        if self.coords is not None and (
            axes != 1 or self.coords.dim() != 2 or self.coords.shape[0] != shape[0]
        ):
            raise ValueError(f"expected coords of shape ({shape[0]}, 2), got {tuple(self.coords.shape)}")
        self._values = values
        self._mask = mask
        self._selection = slice(None)  # of all blocks, those of this part

    def __repr__(self) -> str:
        channels = "" if self.channels is None else f", {self.channels} channels"
        return f"Pieces({' x '.join(map(str, self.sizes))}{channels}, block {self.block})"

    def part(self, number: int, parts: int) -> Pieces:
        """One of several parts that together are these pieces: every `parts`-th block, from the one of this number on.

        The places of its elements are still those within the whole, and `sizes` and `coords` are of the whole.

        Raises:
            ValueError: A number that is not below `parts`.

        Example:
            >>> scan = Pieces(torch.zeros(5, 4, 1), block=(2, 4))
            >>> [rows for rows, _ in scan.part(0, 2).blocks()]
            [slice(0, 2, None), slice(4, 5, None)]
        """
        if not 0 <= number < parts:
            raise ValueError(f"expected a part from 0 to {parts - 1}, got {number}")
        first, step = self._selection.start or 0, self._selection.step or 1
        part = copy.copy(self)
        part._selection = slice(first + number * step, None, step * parts)
        return part

    def hide(self, where: Tensor) -> Pieces:
        """The same pieces without the elements that `where` (*axes) marks."""
        hidden = Pieces(self._values, self.block, _Shown(self, where.cpu()), self.coords)
        hidden._selection = self._selection
        return hidden

    @property
    def masked(self) -> bool:
        """True if elements may be masked."""
        return self._mask is not None

    @cached_property
    def boxes(self) -> tuple[Tensor, Tensor]:
        """The lowest and the highest coordinates of the real patches of each slide, (slides, 2) each, as float64.

        Raises:
            ValueError: There are no coordinates.
        """
        if self.coords is None:
            raise ValueError("expected pieces with coords, got none")
        coords = self.coords[:, :2].double()[None]
        slides = self.coords[None, :, 2].long() if self.coords.shape[1] > 2 else None
        mask = self.read_mask((slice(None),))
        low, high = bounding_boxes(coords, None if mask is None else mask[None], slides)
        return low[0], high[0]

    def blocks(self) -> list[Block]:
        """All blocks, or those of this part, the last axis fastest; those at the end of an axis may be smaller."""
        return self._every_block()[self._selection]

    def digests(self) -> tuple[int, int]:
        """Sums of digests, modulo `DIGEST`, of the blocks of this part and of those of the whole.

        Parts that leave out no block and have none twice add up to the whole, and hardly any others do.
        """
        return _digest(self.sizes, self.blocks()), _digest(self.sizes, self._every_block())

    @cached_property
    def real(self) -> int:
        """Number of real elements of the whole, for which its mask is read."""
        if self._mask is None:
            return math.prod(self.sizes)
        masks = (self.read_mask(block) for block in self._every_block())
        return sum(int(mask.sum()) for mask in masks if mask is not None)

    def _every_block(self) -> list[Block]:
        starts = [range(0, size, step) for size, step in zip(self.sizes, self.block, strict=True)]
        sizes = list(zip(self.block, self.sizes, strict=True))
        return [
            tuple(slice(a, min(a + step, size)) for a, (step, size) in zip(corner, sizes, strict=True))
            for corner in itertools.product(*starts)
        ]

    def read_mask(self, block: Block) -> Tensor | None:
        """The mask of one block, or None where every element is real.

        Raises:
            ValueError: A mask that is not boolean.
        """
        if self._mask is None:
            return None
        mask = torch.as_tensor(self._mask[block])
        if mask.dtype != torch.bool:
            raise ValueError(f"expected a bool mask (True = real), got {mask.dtype}")
        return mask

    def read(self, block: Block) -> tuple[Tensor, Tensor | None]:
        """Values and mask of one block.

        Raises:
            ValueError: A real element that is not finite.
        """
        return self._read(block, self.read_mask(block))

    def _read(self, block: Block, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        values = self._values[block]
        # A copy where the source cannot be written, which torch would warn of.
        values = (
            values if isinstance(values, Tensor) else torch.from_numpy(np.require(values, None, ["C", "W"]))
        )
        if values.is_floating_point() and values.numel():
            finite = values.isfinite() if self.channels is None else values.isfinite().all(dim=-1)
            if not bool((finite if mask is None else finite | ~mask).all()):
                where = ", ".join(f"{part.start}:{part.stop}" for part in block)
                raise ValueError(f"expected finite values, got others in block [{where}]")
        return values, mask

    def walk(self) -> Iterator[tuple[Block, Tensor, Tensor | None]]:
        """Every block with its values and mask, but for those that are masked throughout, which are not read.

        The next one is read while the caller works on this one.
        """
        with ThreadPoolExecutor(max_workers=1) as reader:
            waiting = None
            for block in self.blocks():
                mask = self.read_mask(block)
                if mask is not None and not mask.any():
                    continue
                coming = (block, reader.submit(self._read, block, mask))
                if waiting is not None:
                    yield (waiting[0], *waiting[1].result())
                waiting = coming
            if waiting is not None:
                yield (waiting[0], *waiting[1].result())


def _digest(sizes: tuple[int, ...], blocks: list[Block]) -> int:
    texts = (repr((sizes, [(part.start, part.stop) for part in block])) for block in blocks)
    return (
        sum(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=5).digest()) for text in texts) % DIGEST
    )


class _Shown:
    """The mask of some pieces without the elements that `where` marks."""

    def __init__(self, pieces: Pieces, where: Tensor) -> None:
        self._pieces, self._where, self.shape = pieces, where, tuple(where.shape)

    def __getitem__(self, block: Block) -> Tensor:
        mask, shown = self._pieces.read_mask(block), ~self._where[block]
        return shown if mask is None else mask & shown


class Stream:
    """One modality of a batch whose patients are read in pieces; None for a patient without it.

    Encoders that work element by element take it: `GridEncoder`, `PatchEncoder`, `OmicEncoder(tokens="features")`, and your
    own if it implements `encode_block`.

    Args:
        patients: `Pieces` or None, one per patient of the batch.
        device: Device that computes the pieces.

    Raises:
        ValueError: No patient at all, or something else in a patient's place.

    Example:
        >>> from healnet import HEALNet
        >>> from healnet.encoders import GridEncoder
        >>> scan = torch.rand(40, 30, 3)
        >>> model = HEALNet({"scan": GridEncoder(channels=3, ndim=2)}).eval()
        >>> streamed = model({"scan": Stream([Pieces(scan, block=(8, 30)), None])})
        >>> torch.allclose(streamed[0], model({"scan": scan[None]})[0], atol=1e-5)
        True
    """

    def __init__(self, patients: Sequence[Pieces | None], device: torch.device | str = "cpu") -> None:
        self.patients = tuple(patients)
        self.device = torch.device(device)
        if not self.patients:
            raise ValueError("expected at least one patient, got none")
        for position, pieces in enumerate(self.patients):
            if pieces is not None and not isinstance(pieces, Pieces):
                raise ValueError(
                    f"expected Pieces or None for patient {position}, got {type(pieces).__name__}"
                )

    def __len__(self) -> int:
        return len(self.patients)

    def __repr__(self) -> str:
        return f"Stream({list(self.patients)})"

    def part(self, number: int, parts: int) -> Stream:
        """One of several parts that together are this stream, such as that of one process of a `token_group`.

        See `Pieces.part`. The part with a patient's first block differs from one patient to the next, so that patients
        with few blocks are spread over all parts.
        """
        patients = enumerate(self.patients)
        return Stream(
            [p if p is None else p.part((number + i) % parts, parts) for i, p in patients], self.device
        )

    @property
    def present(self) -> Tensor:
        """(b,) bool: who has a real element, in this part. A mask is read for it, block by block, until one is found."""
        return torch.tensor([_any_real(pieces) for pieces in self.patients], device=self.device)

    def take(self, index: Tensor) -> Stream:
        """The patients `index` (positions or a bool mask)."""
        positions = torch.arange(len(self))[index.cpu()]
        return Stream([self.patients[position] for position in positions.tolist()], self.device)

    def repeat(self, times: int) -> Stream:
        """The whole batch `times` times over."""
        return Stream(self.patients * times, self.device)

    @property
    def real(self) -> Tensor:
        """(b, *axes) bool: which elements are real; each axis is as long as the longest patient's. Held in memory."""
        sizes = [pieces.sizes for pieces in self.patients if pieces is not None]
        real = torch.zeros(len(self), *(max(axis) for axis in zip(*sizes, strict=True)), dtype=torch.bool)
        for patient, pieces in enumerate(self.patients):
            if pieces is None:
                continue
            for block in pieces.blocks():
                mask = pieces.read_mask(block)
                real[patient][block] = True if mask is None else mask
        return real.to(self.device)

    def hide(self, where: Tensor) -> Stream:
        """The stream without what `where` marks: patients (b,), or elements (b, *axes) or (1, *axes)."""
        patients: list[Pieces | None] = []
        for pieces, gone in zip(self.patients, where.expand(len(self), *where.shape[1:]), strict=True):
            if pieces is None or not gone.any():
                patients.append(pieces)
            elif gone.dim() == 0:
                patients.append(None)
            else:
                patients.append(pieces.hide(gone[tuple(slice(size) for size in pieces.sizes)]))
        return Stream(patients, self.device)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Stream:
        """The same stream, computed on another device; pieces are moved as they come."""
        return Stream(self.patients, device)


def _any_real(pieces: Pieces | None) -> bool:
    if pieces is None or 0 in pieces.sizes:
        return False
    if not pieces.masked:
        return bool(pieces.blocks())
    return any(bool(mask.any()) for block in pieces.blocks() if (mask := pieces.read_mask(block)) is not None)
