"""Patch features of slides: `PatchBag`."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from healnet.inputs.map_tensors import converted

__all__ = ["PatchBag"]


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
        """Move as `Tensor.to` does; a dtype applies to the features alone: level-0 coordinates overflow float16."""
        moved: PatchBag = converted(self, ("features",), *args, **kwargs)
        return moved
