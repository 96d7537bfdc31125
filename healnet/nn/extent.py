"""Scale coordinates in real units to positions on [-1, 1], independent of padding and of other patients."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from healnet.nn.token_shards import TokenShards

__all__ = ["bounding_boxes", "within_boxes", "within_extent", "within_scale"]


def within_extent(
    coords: Tensor,
    mask: Tensor | None = None,
    groups: Tensor | None = None,
    shards: TokenShards | None = None,
) -> Tensor:
    """Coordinates as fractions of the bounding box of their own set: its center is 0, its longest side spans [-1, 1].

    One scale for all axes, so shapes keep their proportions. A set is what is real of one patient, or of one group of that
    patient (one slide of several).

    Args:
        coords: Floating-point coordinates.
        mask: True = real. Masked places are 0.
        groups: Non-negative integer group of each place; None puts a patient's places in one group.
        shards: Processes that have other places of the same sets.

    Shape:
        coords: (b, n, a); mask, groups: (b, n); returns (b, n, a)

    Example:
        >>> within_extent(torch.tensor([[[0.0, 100.0], [400.0, 200.0]]]))
        tensor([[[-1.0000, -0.2500],
                 [ 1.0000,  0.2500]]])
    """
    if not coords.numel() and shards is None:
        return coords
    if mask is not None:
        coords = coords.masked_fill(~mask.unsqueeze(-1), 0)  # not even their NaN may reach a gradient
    number = None
    if shards is not None and groups is not None:
        real = groups if mask is None else groups.masked_fill(~mask, 0)
        number = int(shards.maximum(F.pad(real.flatten(), (1, 0)).amax())) + 1
    low, high = bounding_boxes(coords, mask, groups, number)
    if shards is not None:
        low, high = -shards.maximum(-low), shards.maximum(high)
    if groups is None:
        groups = coords.new_zeros(coords.shape[:2], dtype=torch.long)
    places = within_boxes(coords, low, high, groups if mask is None else groups.masked_fill(~mask, 0))
    return places if mask is None else places.masked_fill(~mask.unsqueeze(-1), 0)


def bounding_boxes(
    coords: Tensor,
    mask: Tensor | None = None,
    groups: Tensor | None = None,
    number: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The lowest and the highest real coordinates of each group; inf and -inf where it has none.

    Args:
        coords: Coordinates.
        mask: True = real.
        groups: Group of each place; None for one group.
        number: Number of groups g; by default as many as occur.

    Shape:
        coords: (b, n, a), finite; mask, groups: (b, n); returns two of (b, g, a)

    Example:
        >>> low, high = bounding_boxes(torch.tensor([[[0.0, 100.0], [400.0, 200.0]]]))
        >>> low.tolist(), high.tolist()
        ([[[0.0, 100.0]]], [[[400.0, 200.0]]])
    """
    low, high = coords, coords
    if mask is not None:
        masked = ~mask.unsqueeze(-1)
        low, high = coords.masked_fill(masked, math.inf), coords.masked_fill(masked, -math.inf)
    if groups is None:
        if not coords.shape[1]:
            none = coords.new_full((len(coords), 1, coords.shape[2]), math.inf)
            return none, -none
        return low.amin(dim=1, keepdim=True), high.amax(dim=1, keepdim=True)
    groups = groups if mask is None else groups.masked_fill(~mask, 0)
    number = int(groups.max()) + 1 if number is None else number
    index = groups.unsqueeze(-1).expand_as(coords)
    box = coords.new_full((len(coords), number, coords.shape[2]), math.inf)
    return (
        box.scatter_reduce(1, index, low, "amin", include_self=True),
        (-box).scatter_reduce(1, index, high, "amax", include_self=True),
    )


def within_boxes(coords: Tensor, low: Tensor, high: Tensor, groups: Tensor) -> Tensor:
    """Coordinates as fractions of the boxes of their groups: the center is 0, the longest side spans [-1, 1].

    Shape:
        coords: (b, n, a); low, high: (b, g, a); groups: (b, n), integers below g; returns (b, n, a)
    """
    index = groups.unsqueeze(-1).expand_as(coords)
    low, high = low.gather(1, index), high.gather(1, index)
    span = (high - low).amax(dim=-1, keepdim=True)
    # One place, or none (-inf): at the center, rather than 0 / 0.
    span = torch.where(span > 0, span, torch.ones_like(span))
    return (2 * coords - low - high) / span


def within_scale(coords: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Coordinates on a fixed scale: 0 becomes -1 and `scale` becomes 1, for all patients alike. Masked places are 0.

    Shape:
        coords: (b, n, a); mask: (b, n); returns (b, n, a)

    Example:
        >>> within_scale(torch.tensor([[[0.0], [50.0], [200.0]]]), None, scale=100.0).flatten()
        tensor([-1.,  0.,  3.])
    """
    places = 2 * coords / scale - 1
    return places if mask is None else places.masked_fill(~mask.unsqueeze(-1), 0)
