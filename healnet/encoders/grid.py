"""Raw images and volumes: a token per pixel, voxel or block of them, with its place."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from healnet.encoders.base import ModalityEncoder
from healnet.inputs import Hidden, Masked, element_mask, unmask
from healnet.nn.fourier import fourier_features, fourier_width
from healnet.nn.token_shards import TokenShards
from healnet.streams import Block, Pieces
from healnet.tokens import Tokens

__all__ = ["GridEncoder", "axis_positions"]


class GridEncoder(ModalityEncoder):
    """Pixels or voxels as tokens: their channels, then Fourier features of their place on every axis.

    A place is a coordinate on [-1, 1] per axis, from the first to the last pixel (an axis of one pixel sits at -1), as in
    Perceiver (Jaegle et al. 2021, arXiv 2103.03206). Nothing is learned here.

    Sizes may differ inside a batch: pad at the end of each axis and mask the padding. A patient's places span that
    patient's own extent, from the origin to the last real pixel of each axis, so that padding changes nothing; holes
    further in are masked without moving any place.

    Tokens are standardized over their own channels before attention, so scale the channels to about [-1, 1]: pixels of 0
    to 255 would drown the positions. Integer pixels become floats of the default type, unscaled.

    Args:
        channels: Channels per pixel.
        ndim: Number of axes, 1 to 4.
        num_bands: Frequencies per axis; 0 leaves the coordinate alone.
        max_freq: Sampling rate whose Nyquist frequency is the highest band.
        positions: Whether tokens hold positions beside their channels.
        channels_first: Whether inputs are (b, c, *axes) instead of (b, *axes, c).
        patch: Pixels per side of a block that becomes one token, one number or one per axis. Sizes that it does not divide
            are filled up with zeros; a block is real if any of its pixels is, and its masked pixels are zeros.
        spacing: Physical length of a pixel along each axis, in any one unit. The longest side of a patient then spans
            [-1, 1] and the others are shorter in proportion, centered on 0.

    Shape:
        inputs: (b, *axes, c), or Masked with a mask of (b,) or (b, *axes)
        returns: (b, n, token_dim), n the product of the axes in blocks, the last axis fastest

    Raises:
        ValueError: An `ndim`, `patch` or `spacing` out of range; another number of axes or channels.

    Example:
        >>> encoder = GridEncoder(channels=1, ndim=3)
        >>> encoder.token_dim  # one channel, and a coordinate, two sines and two cosines per axis
        16
        >>> encoder(torch.zeros(2, 4, 6, 6, 1)).values.shape
        torch.Size([2, 144, 16])
        >>> GridEncoder(channels=3, ndim=2, patch=16)(torch.zeros(2, 64, 64, 3)).values.shape
        torch.Size([2, 16, 778])
    """

    splits = True

    def __init__(
        self,
        channels: int,
        ndim: int,
        num_bands: int = 2,
        max_freq: float = 10.0,
        positions: bool = True,
        channels_first: bool = False,
        patch: int | Sequence[int] = 1,
        spacing: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if not 1 <= ndim <= 4:
            raise ValueError(f"expected ndim from 1 to 4, got {ndim}")
        self.patch = (patch,) * ndim if isinstance(patch, int) else tuple(patch)
        if len(self.patch) != ndim or min(self.patch) < 1:
            raise ValueError(f"expected patch to be a positive integer or {ndim} of them, got {patch}")
        if spacing is not None and (len(spacing) != ndim or not min(spacing) > 0):
            raise ValueError(f"expected spacing to be {ndim} positive numbers, got {spacing}")
        self.channels = channels
        self.ndim = ndim
        self.num_bands = num_bands
        self.max_freq = max_freq
        self.positions = positions
        self.channels_first = channels_first
        self.spacing = None if spacing is None else tuple(spacing)
        block = 1
        for side in self.patch:
            block *= side
        self.token_dim = channels * block + (fourier_width(ndim, num_bands) if positions else 0)

    def extra_repr(self) -> str:
        """Return the text that `repr` shows."""
        return (
            f"channels={self.channels}, ndim={self.ndim}, num_bands={self.num_bands}, max_freq={self.max_freq}, "
            f"positions={self.positions}, patch={self.patch}"
        )

    def forward(self, inputs: Tensor | Masked | Hidden, shards: TokenShards | None = None) -> Tokens:
        """Encode a batch of grids; with `shards`, this process's part of their first axis, in the order of the processes.

        Places span what is real of each grid, of `Hidden` what was before.

        Raises:
            ValueError: Another number of axes or channels; a part that `patch` does not divide and that is not the last.
        """
        values, mask = unmask(inputs)
        values = self._channels_last(values)
        if not values.is_floating_point():
            values = values.to(torch.get_default_dtype())
        whole = mask is None or mask.dim() == 1  # every grid fills the tensor
        mask = element_mask(mask, values.shape[:-1])
        before = inputs.extent if isinstance(inputs, Hidden) else None
        pixels = values.shape[1]
        if max(self.patch) > 1:
            before = None if before is None else self._fold_mask(before)
            values, mask = self._fold(values, mask)
        sizes = values.shape[1:-1]
        seen = None if whole else mask if before is None else before
        extents = [_extent(seen, axis, size, values.device) for axis, size in enumerate(sizes)]
        starts = [0] * self.ndim
        if shards is not None:
            starts[0], extents = self._within_whole(pixels, sizes[0], extents, len(values), shards)
        return self._tokens(values, mask, starts, extents)

    def _within_whole(
        self, pixels: int, size: int, extents: list[Tensor], batch: int, shards: TokenShards
    ) -> tuple[int, list[Tensor]]:
        """Return the start of this process's part of the first axis, and the extents of the whole grids, (b,) per axis."""
        device = extents[0].device
        parts = shards.sizes(pixels, device)
        last = max((rank for rank, part in enumerate(parts) if part), default=0)
        if any(part % self.patch[0] for part in parts[:last]):
            raise ValueError(
                f"expected parts of the first axis in multiples of patch {self.patch[0]}, got {parts}"
            )
        start = sum(shards.sizes(size, device)[: shards.rank])
        first, *others = (extent.expand(batch) for extent in extents)
        first = torch.where(first > 0, first + start, first)
        return start, [shards.maximum(extent) for extent in (first, *others)]

    def encode_block(self, pieces: Pieces, block: Block, values: Tensor, mask: Tensor | None) -> Tokens:
        """Encode one block of a grid; with `patch` above 1, blocks must begin at multiples of it.

        Places span the whole of `pieces`, whatever its mask: where the last rows or columns are all masked, `forward`
        would let them span the real part.
        """
        if self.channels_first:
            raise ValueError(
                "expected pieces with their channels last, got an encoder with channels_first=True"
            )
        whole = (*pieces.sizes, pieces.channels)
        if len(pieces.sizes) != self.ndim or pieces.channels != self.channels:
            axes = ", ".join(f"axis{i}" for i in range(self.ndim))
            raise ValueError(f"expected pieces of a shape of ({axes}, {self.channels}), got {whole}")
        starts = [part.start for part in block]
        if any(start % side for start, side in zip(starts, self.patch, strict=True)):
            raise ValueError(
                f"expected blocks in multiples of patch {self.patch}, got blocks of {pieces.block}"
            )
        values, mask = values.unsqueeze(0), None if mask is None else mask.unsqueeze(0)
        if not values.is_floating_point():
            values = values.to(torch.get_default_dtype())
        if max(self.patch) > 1:
            values, mask = self._fold(values, mask)
        extents = [
            torch.tensor([-(-size // side)], device=values.device)
            for size, side in zip(pieces.sizes, self.patch, strict=True)
        ]
        starts = [start // side for start, side in zip(starts, self.patch, strict=True)]
        return self._tokens(values, mask, starts, extents)

    def _tokens(
        self, values: Tensor, mask: Tensor | None, starts: Sequence[int], extents: Sequence[Tensor]
    ) -> Tokens:
        """Flat tokens of a grid (b, *axes, c) that begins at `starts` of grids of these extents, (1,) or (b,) per axis."""
        flat = rearrange(values, "b ... c -> b (...) c")
        if self.positions:
            places = self._places(values.shape[1:-1], starts, extents, values)
            flat = torch.cat((flat, places.expand(len(flat), -1, -1)), dim=-1)
        return Tokens(flat, None if mask is None else rearrange(mask, "b ... -> b (...)"))

    def _channels_last(self, values: Tensor) -> Tensor:
        axis = 1 if self.channels_first else -1
        if values.dim() != self.ndim + 2 or values.shape[axis] != self.channels:
            axes = ", ".join(f"axis{i}" for i in range(self.ndim))
            expected = (
                f"(b, {self.channels}, {axes})" if self.channels_first else f"(b, {axes}, {self.channels})"
            )
            raise ValueError(f"expected a shape of {expected}, got {tuple(values.shape)}")
        return values.movedim(1, -1) if self.channels_first else values

    def _fold(self, values: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Blocks into channels, first axis slowest and the pixel's own channels fastest."""
        if mask is not None:
            values = values.masked_fill(~mask.unsqueeze(-1), 0)
            mask = self._fold_mask(mask)
        values = F.pad(values, [0, 0, *self._fill(values.shape[1:-1])])
        grid, outer, inner, sides = self._blocks()
        return rearrange(values, f"b {grid} c -> b {outer} ({inner} c)", **sides), mask

    def _fold_mask(self, mask: Tensor) -> Tensor:
        """Blocks of which any element is True."""
        grid, outer, inner, sides = self._blocks()
        filled = F.pad(mask, self._fill(mask.shape[1:]))
        return rearrange(filled, f"b {grid} -> b {outer} ({inner})", **sides).any(dim=-1)

    def _fill(self, sizes: Sequence[int]) -> list[int]:
        """What `torch.nn.functional.pad` adds at the end of each axis for whole blocks, the last axis first."""
        short = [-size % side for size, side in zip(sizes, self.patch, strict=True)]
        return [pad for missing in reversed(short) for pad in (0, missing)]

    def _blocks(self) -> tuple[str, str, str, dict[str, int]]:
        """The axes of a grid of blocks, of the blocks and within them, as einops writes them, and the sides of a block."""
        outer, inner = ([f"{letter}{i}" for i in range(self.ndim)] for letter in "ap")
        grid = " ".join(f"({a} {p})" for a, p in zip(outer, inner, strict=True))
        return grid, " ".join(outer), " ".join(inner), dict(zip(inner, self.patch, strict=True))

    def _places(
        self, sizes: Sequence[int], starts: Sequence[int], extents: Sequence[Tensor], like: Tensor
    ) -> Tensor:
        """(1 or b, n, w): Fourier features of every place, made per axis and then spread over the grid."""
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        coordinates = [
            axis_positions(size, extent, dtype, start)
            for size, extent, start in zip(sizes, extents, starts, strict=True)
        ]
        if self.spacing is not None:
            lengths = [
                (extent - 1).clamp(min=0).to(dtype) * side * step
                for extent, side, step in zip(extents, self.patch, self.spacing, strict=True)
            ]
            longest = torch.stack(lengths).amax(dim=0)
            longest = torch.where(longest > 0, longest, torch.ones_like(longest))
            coordinates = [
                x * (length / longest)[:, None] for x, length in zip(coordinates, lengths, strict=True)
            ]
        spread = []
        for axis, x in enumerate(coordinates):
            features = fourier_features(x.unsqueeze(-1), self.num_bands, self.max_freq).to(like.dtype)
            shape = [len(features), *[1] * len(sizes), features.shape[-1]]
            shape[axis + 1] = sizes[axis]
            spread.append(features.reshape(shape).expand(-1, *sizes, -1))
        return rearrange(torch.cat(spread, dim=-1), "b ... w -> b (...) w")


def axis_positions(size: int, extent: Tensor, dtype: torch.dtype = torch.float32, start: int = 0) -> Tensor:
    """`torch.linspace(-1, 1, extent)` for many extents at once, to rounding, continued beyond them to `size` places.

    Shape:
        extent: (b,) -> (b, size)

    Example:
        >>> axis_positions(4, torch.tensor([4, 3, 1]))
        tensor([[-1.0000, -0.3333,  0.3333,  1.0000],
                [-1.0000,  0.0000,  1.0000,  2.0000],
                [-1.0000,  1.0000,  3.0000,  5.0000]])
    """
    index = torch.arange(start, start + size, device=extent.device)
    gaps = (extent - 1).clamp(min=1).to(dtype).unsqueeze(-1)
    return 2 * index / gaps - 1


def _extent(mask: Tensor | None, axis: int, size: int, device: torch.device) -> Tensor:
    """(b,) places from the origin to each patient's last real one along an axis; (1,) without a mask."""
    if mask is None:
        return torch.tensor([size], device=device)
    others = [i + 1 for i in range(mask.dim() - 1) if i != axis]
    filled = mask.any(dim=others) if others else mask
    # A column of zeros first: the largest of nothing is 0.
    return F.pad(filled * torch.arange(1, size + 1, device=device), (1, 0)).amax(dim=-1)
