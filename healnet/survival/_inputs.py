"""What every loss checks at its door, once: shapes, labels, and the precision to compute in."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["ArrayOrTensor", "as_event", "as_vector", "reduce", "widen"]

ArrayOrTensor = Tensor | NDArray[np.generic]


def widen(outputs: Tensor, name: str) -> Tensor:
    """Half precision becomes float32, float32 and float64 stay: losses accumulate in no less than float32."""
    if not outputs.is_floating_point():
        raise ValueError(f"{name} must be floating point, got {outputs.dtype}")
    return outputs.float() if outputs.dtype in (torch.float16, torch.bfloat16) else outputs


def as_vector(values: ArrayOrTensor, name: str, like: Tensor) -> Tensor:
    """`values` on the device of `like`, one per row of it.

    Raises:
        ValueError: another shape than (b,).
    """
    vector = torch.as_tensor(values, device=like.device)
    if vector.shape != like.shape[:1]:
        raise ValueError(
            f"{name} must have shape ({like.shape[0]},), one per patient, got {tuple(vector.shape)}"
        )
    return vector


def as_event(event: ArrayOrTensor, like: Tensor) -> Tensor:
    """(b,) bool from bool or 0/1; bool needs no look at the values, so a GPU does not stall.

    Raises:
        ValueError: another shape, or a label other than 0 and 1.
    """
    vector = as_vector(event, "event", like)
    if vector.dtype == torch.bool:
        return vector
    if not bool(((vector == 0) | (vector == 1)).all()):
        raise ValueError("event must be bool or exactly 0 or 1 (1 = the event was observed)")
    return vector.bool()


def reduce(terms: Tensor, reduction: str, count: Tensor | int | None = None) -> Tensor:
    """Sum, mean (over `count` where it is not the number of terms) or nothing.

    Raises:
        ValueError: another name.
    """
    if reduction == "none":
        return terms
    if reduction == "sum":
        return terms.sum()
    if reduction == "mean":
        return terms.mean() if count is None else terms.sum() / count
    raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
