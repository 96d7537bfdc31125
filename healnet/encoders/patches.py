"""Bags of patch features from whole-slide images: a token per patch, with its place on the slide."""

from __future__ import annotations

import torch
from torch import Tensor

from healnet.encoders.base import ModalityEncoder
from healnet.inputs import Masked, PatchBag, element_mask, unmask
from healnet.nn.extent import within_boxes, within_extent, within_scale
from healnet.nn.fourier import fourier_features, fourier_width
from healnet.nn.token_shards import TokenShards
from healnet.streams import Block, Pieces
from healnet.tokens import Tokens

__all__ = ["PatchEncoder"]


class PatchEncoder(ModalityEncoder):
    """Patch features as tokens: the features, then Fourier features of the patch's real (x, y). Nothing is learned.

    Places are fractions of the slide: the bounding box of a slide's real patches is centered on 0 and its longest side
    spans [-1, 1]. They depend on that slide alone, neither on the order of its patches nor on padding. Leaving patches out
    may move the box; with a fixed `scale` nothing moves. A distance then means the same on every slide if the coordinates
    are in microns: level-0 pixels times the slide's mpp.

    Several slides of a patient are one bag with the slide's index as the third column of `coords`: each slide then has a
    box of its own. With `slide_position`, the index itself is a coordinate beside x and y: slide s sits at 1 - 2 / (s + 1),
    that is -1, 0, 1/3, ..., whatever the number of slides.

    Features keep their precision: float16 features make float16 tokens, without a float32 copy of the bag here.

    Args:
        dim: Width of a patch's features.
        positions: Whether tokens hold positions beside their features; without, coordinates are not read.
        num_bands: Frequencies per coordinate; 0 leaves the coordinate alone.
        max_freq: Sampling rate whose Nyquist frequency is the highest band: 32 resolves an eighth of a slide.
        scale: Length, in the units of the coordinates, that spans [-1, 1] from the slide's origin.
        slide_position: Whether the slide's index (third column of the coordinates) is a coordinate too.

    Shape:
        inputs: PatchBag of features (b, n, dim), coords (b, n, 2 or 3) and mask (b, n); without positions also a plain
            (b, n, dim) tensor or Masked with a mask of (b,) or (b, n)
        returns: (b, n, token_dim)

    Raises:
        ValueError: A `scale` that is not positive; features of another width; coordinates of another shape; no
            coordinates where they are expected.

    Example:
        >>> bag = PatchBag(torch.randn(2, 50, 1024), torch.randint(0, 99_999, (2, 50, 2)), torch.ones(2, 50).bool())
        >>> PatchEncoder(1024)(bag).values.shape  # 1024 features, and 4 sines, 4 cosines and a coordinate for x and y
        torch.Size([2, 50, 1042])
        >>> PatchEncoder(1024, positions=False)(bag.features).values.shape
        torch.Size([2, 50, 1024])
    """

    splits = True

    def __init__(
        self,
        dim: int,
        positions: bool = True,
        num_bands: int = 4,
        max_freq: float = 32.0,
        scale: float | None = None,
        slide_position: bool = False,
    ) -> None:
        super().__init__()
        if scale is not None and not scale > 0:
            raise ValueError(f"expected a positive scale or None, got {scale}")
        if slide_position and not positions:
            raise ValueError(
                "expected positions=True with slide_position=True: a slide's index is a position"
            )
        self.dim = dim
        self.positions = positions
        self.num_bands = num_bands
        self.max_freq = max_freq
        self.scale = scale
        self.slide_position = slide_position
        self.token_dim = dim + (fourier_width(2 + slide_position, num_bands) if positions else 0)

    def extra_repr(self) -> str:
        """Return the text that `repr` shows."""
        return (
            f"dim={self.dim}, positions={self.positions}, num_bands={self.num_bands}, max_freq={self.max_freq}, "
            f"scale={self.scale}, slide_position={self.slide_position}"
        )

    def forward(self, inputs: PatchBag | Tensor | Masked, shards: TokenShards | None = None) -> Tokens:
        """Encode a batch of bags; with `shards`, this process's patches of them."""
        if isinstance(inputs, PatchBag):
            features, mask = unmask(Masked(inputs.features, inputs.mask))
        elif self.positions:
            raise ValueError(
                f"expected PatchBag(features, coords, mask), got {type(inputs).__name__}; "
                "for bags without coordinates make the encoder with positions=False"
            )
        else:
            features, mask = unmask(inputs)
        if features.dim() != 3 or features.shape[2] != self.dim:
            raise ValueError(f"expected features of shape (b, n, {self.dim}), got {tuple(features.shape)}")
        mask = element_mask(mask, features.shape[:2])
        if not isinstance(inputs, PatchBag) or not self.positions:
            return Tokens(features, mask)
        places = self._places(inputs.coords, mask, features, shards)
        return Tokens(torch.cat((features, places.to(features.dtype)), dim=-1), mask)

    def _places(
        self, coords: Tensor, mask: Tensor | None, features: Tensor, shards: TokenShards | None
    ) -> Tensor:
        columns = (3,) if self.slide_position else (2, 3)
        if coords.shape[:-1] != features.shape[:-1] or coords.shape[-1] not in columns:
            b, n, _ = features.shape
            wanted = " or ".join(f"({b}, {n}, {c})" for c in columns)
            raise ValueError(f"expected coords of shape {wanted}, got {tuple(coords.shape)}")
        places, slides = self._split(coords, features)
        if self.scale is not None:
            places = within_scale(places, mask, self.scale)
        else:
            groups = slides.squeeze(-1).long() if slides.shape[-1] else None
            places = within_extent(places, mask, groups, shards)
        return self._fourier(places, slides, mask)

    def encode_block(self, pieces: Pieces, block: Block, values: Tensor, mask: Tensor | None) -> Tokens:
        """Encode some of a patient's patches; their places are those within the slide's whole bounding box."""
        if len(pieces.sizes) != 1 or pieces.channels != self.dim:
            whole = pieces.sizes if pieces.channels is None else (*pieces.sizes, pieces.channels)
            raise ValueError(f"expected pieces of a shape of (n, {self.dim}), got {whole}")
        features, mask = values.unsqueeze(0), None if mask is None else mask.unsqueeze(0)
        if not self.positions:
            return Tokens(features, mask)
        columns = (3,) if self.slide_position else (2, 3)
        if pieces.coords is None or pieces.coords.shape[1] not in columns:
            wanted = " or ".join(f"({pieces.sizes[0]}, {c})" for c in columns)
            got = "none" if pieces.coords is None else tuple(pieces.coords.shape)
            raise ValueError(f"expected coords of shape {wanted}, got {got}")
        places, slides = self._split(pieces.coords[block].unsqueeze(0).to(features.device), features)
        if mask is not None:
            places = places.masked_fill(~mask.unsqueeze(-1), 0)
        if self.scale is not None:
            places = within_scale(places, mask, self.scale)
        else:
            low, high = (box.unsqueeze(0).to(places) for box in pieces.boxes)
            group = (
                slides.squeeze(-1).long() if slides.shape[-1] else places.new_zeros(places.shape[:2]).long()
            )
            group = group if mask is None else group.masked_fill(~mask, 0)
            places = within_boxes(places, low, high, group)
            places = places if mask is None else places.masked_fill(~mask.unsqueeze(-1), 0)
        places = self._fourier(places, slides, mask)
        return Tokens(torch.cat((features, places.to(features.dtype)), dim=-1), mask)

    def _split(self, coords: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """(x, y) as floats, and the column of the slide's index or none. Level-0 pixels reach 10^5, beyond float16."""
        dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
        return coords[..., :2].to(dtype), coords[..., 2:]

    def _fourier(self, places: Tensor, slides: Tensor, mask: Tensor | None) -> Tensor:
        if self.slide_position:
            index = slides.to(places.dtype)
            index = index if mask is None else index.masked_fill(~mask.unsqueeze(-1), 0)
            places = torch.cat((places, 1 - 2 / (index + 1)), dim=-1)
        return fourier_features(places, self.num_bands, self.max_freq)
