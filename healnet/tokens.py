"""The types that cross rooms: `Tokens` out of an encoder, `Masked` and `PatchBag` into one.

Everywhere a mask is boolean and **True means real**: padding and absence are the same thing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["LAYER_NORM_EPS", "Masked", "PatchBag", "Tokens"]

LAYER_NORM_EPS = 1e-5  # torch.nn.LayerNorm's default, which released checkpoints were trained with


class Masked(NamedTuple):
    """A plain tensor with absence beside it, for any modality that is one tensor per patient.

    A NamedTuple of tensors, so that PyTorch's default collation, pinning and scattering over devices work.

    Shape:
        values: (b, *axes) or (b, *axes, c), as the modality's encoder takes it.
        mask: bool, True = real. (b,) says who has the modality at all; (b, *axes) says which elements are real.

    Example:
        >>> rna = Masked(torch.zeros(2, 3), torch.tensor([True, False]))  # the second patient has no RNA
        >>> rna.mask.tolist()
        [True, False]
    """

    values: Tensor
    mask: Tensor

    def to(self, *args: Any, **kwargs: Any) -> Masked:
        """Move as `Tensor.to` does; a dtype applies to the values, never to the mask."""
        return Masked(self.values.to(*args, **kwargs), _move_mask(self.mask, *args, **kwargs))


class PatchBag(NamedTuple):
    """Patch features of one batch of patients, ragged bags padded to the longest.

    Shape:
        features: (b, n, c) float of any precision.
        coords: (b, n, 2) the (x, y) of each patch's top-left corner, or (b, n, 3) with the slide's index last.
        mask: (b, n) bool, True = a real patch. A patient without slides is a row of all False.
    """

    features: Tensor
    coords: Tensor
    mask: Tensor

    def to(self, *args: Any, **kwargs: Any) -> PatchBag:
        """Move as `Tensor.to` does; a dtype applies to features and coordinates, never to the mask."""
        return PatchBag(
            self.features.to(*args, **kwargs),
            self.coords.to(*args, **kwargs),
            _move_mask(self.mask, *args, **kwargs),
        )


def _move_mask(mask: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return mask.to(*args, **kwargs).to(torch.bool)


class Tokens:
    """What every encoder returns and every fusion layer reads: raw tokens with their positions.

    Shape:
        values: (b, n, c) floating point; positions are already concatenated to the channels.
        mask: (b, n) bool, True = real, or None where every token of every patient is real.

    Raises:
        ValueError: another number of axes, a mask of another shape or type.

    Example:
        >>> tokens = Tokens(torch.zeros(2, 5, 3), torch.tensor([[True] * 5, [False] * 5]))
        >>> tokens.present
        tensor([ True, False])
    """

    def __init__(self, values: Tensor, mask: Tensor | None = None) -> None:
        if values.dim() != 3 or not values.is_floating_point():
            raise ValueError(
                f"Tokens expect floating-point values of shape (b, n, c), got {values.dtype} of shape {tuple(values.shape)}"
            )
        if mask is not None and (mask.dtype != torch.bool or mask.shape != values.shape[:2]):
            raise ValueError(
                f"Tokens expect a bool mask of shape {tuple(values.shape[:2])}, "
                f"got {mask.dtype} of shape {tuple(mask.shape)}"
            )
        self.values = values
        self.mask = mask
        self._standardised: Tensor | None = None

    def __repr__(self) -> str:
        mask = "None" if self.mask is None else f"{int(self.mask.sum())} of {self.mask.numel()} real"
        return f"Tokens(values={tuple(self.values.shape)} {self.values.dtype}, mask={mask})"

    @property
    def present(self) -> Tensor | None:
        """(b,) bool: who has at least one real token; None where everybody has."""
        return None if self.mask is None else self.mask.any(dim=1)

    def standardised(self, dtype: torch.dtype | None = None) -> Tensor:
        """Each token's values less their mean, over their standard deviation: LayerNorm without its affine part.

        Computed once and kept, because all heads of all layers attend to the same standardised tokens and only the gain
        and bias differ (DESIGN: token-space attention). Masked tokens are zero, whatever they held, NaN included.

        Args:
            dtype: of the first call decides the type of the result (default: that of the values).

        Returns:
            (b, n, c)
        """
        if self._standardised is None:
            values = self.values if dtype is None else self.values.to(dtype)
            if self.mask is not None:
                # Before the statistics: the gradient of a normalised NaN is NaN even behind a mask.
                values = values.masked_fill(~self.mask.unsqueeze(-1), 0)
            self._standardised = F.layer_norm(values, values.shape[-1:], eps=LAYER_NORM_EPS)
        return self._standardised
