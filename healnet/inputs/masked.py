"""A tensor with absence beside it: `Masked`, and `Hidden` where elements of it were hidden."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from healnet.inputs.map_tensors import converted

__all__ = ["Hidden", "Masked"]


class Masked(NamedTuple):
    """A plain tensor with absence beside it, for any modality that is one tensor per patient.

    A NamedTuple of tensors, so that PyTorch's default collation, pinning and scattering over devices work.

    Shape:
        values: (b, *axes) or (b, *axes, c), as the modality's encoder takes it.
        mask: bool, True = real. (b,) says who has the modality at all; (b, *axes) says which elements are real.

    Example:
        >>> import torch
        >>> rna = Masked(torch.zeros(2, 3), torch.tensor([True, False]))  # the second patient has no RNA
        >>> rna.mask.tolist()
        [True, False]
    """

    values: Tensor
    mask: Tensor

    def to(self, *args: Any, **kwargs: Any) -> Masked:
        """Move as `Tensor.to` does; a dtype applies to the values, never to the mask."""
        moved: Masked = converted(self, ("values",), *args, **kwargs)
        return moved


class Hidden(NamedTuple):
    """`Masked` of which elements were hidden, and which were real before: a scan keeps its extent without its last row.

    Made by `hide`, for images and volumes, whose elements get their places from the extent.

    Shape:
        values, mask: as those of `Masked`.
        extent: (b, *axes) bool, True = real before anything was hidden.
    """

    values: Tensor
    mask: Tensor
    extent: Tensor
