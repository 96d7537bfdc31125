"""Precision and reduction that the losses share."""

from __future__ import annotations

import torch
from torch import Tensor

from healnet.survival._checks import check_choice

__all__ = ["exact", "reduce"]


def exact(values: Tensor) -> Tensor:
    """Return float64, where the device has it."""
    return values if values.device.type == "mps" else values.double()


def reduce(terms: Tensor, reduction: str, count: Tensor | None = None) -> Tensor:
    """Return the sum, the mean (over `count` where it is not the number of terms), or the terms as they are.

    Of no terms the sum and mean are a zero that is joined to the graph.

    Raises:
        ValueError: Another name.
    """
    check_choice("reduction", reduction, ("mean", "sum", "none"))
    if reduction == "none":
        return terms
    total = terms.sum()
    if reduction == "mean":
        return total / (max(len(terms), 1) if count is None else torch.where(count > 0, count, 1))
    return total
