"""What every loss checks at its door, once: shapes, labels, and the precision to compute in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "ArrayOrTensor",
    "as_array",
    "as_bins",
    "as_cause",
    "as_event",
    "as_tensor",
    "as_vector",
    "exact",
    "outputs_1d",
    "reduce",
    "widen",
]

ArrayOrTensor = Tensor | NDArray[Any] | Sequence[Any]


def widen(outputs: Tensor, name: str) -> Tensor:
    """Half precision becomes float32, float32 and float64 stay: losses accumulate in no less than float32.

    Raises:
        ValueError: not floating point.
    """
    if not outputs.is_floating_point():
        raise ValueError(f"{name} must be floating point, got {outputs.dtype}")
    return outputs.float() if outputs.dtype in (torch.float16, torch.bfloat16) else outputs


def exact(values: Tensor) -> Tensor:
    """float64, where the device has it."""
    return values if values.device.type == "mps" else values.double()


def outputs_1d(outputs: Tensor, name: str) -> Tensor:
    """(b,) from (b,) or (b, 1), widened.

    Raises:
        ValueError: another shape, not floating point.
    """
    if outputs.dim() == 2 and outputs.shape[1] == 1:
        outputs = outputs.squeeze(1)
    if outputs.dim() != 1:
        raise ValueError(f"{name} must have shape (b,) or (b, 1), got {tuple(outputs.shape)}")
    return widen(outputs, name)


def as_tensor(values: ArrayOrTensor) -> Tensor:
    """A tensor as it is, anything else copied: torch warns of read-only arrays, and reads lists as float32."""
    return values if isinstance(values, Tensor) else torch.tensor(np.asarray(values))


def as_array(values: Any) -> NDArray[Any]:
    """Anything as an array: also tensors that are joined to a graph, on a GPU, or bfloat16, which numpy lacks."""
    if not isinstance(values, Tensor):
        return np.asarray(values)
    values = values.detach().cpu()
    array: NDArray[Any] = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    return array


def as_vector(values: ArrayOrTensor, name: str, like: Tensor) -> Tensor:
    """`values` on the device of `like`, one per row of it.

    Raises:
        ValueError: another shape than (b,), something else than numbers.
    """
    try:
        vector = as_tensor(values).to(like.device)
    except TypeError as error:  # text and objects have no tensor
        raise ValueError(f"{name} must hold numbers, got {np.asarray(values).dtype}") from error
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


def as_cause(cause: ArrayOrTensor, num_causes: int, like: Tensor) -> Tensor:
    """(b,) int64: 0 = censored, 1..r = which of r causes was observed.

    Raises:
        ValueError: another shape or type, a cause outside 0..r.
    """
    vector = as_vector(cause, "event", like)
    if vector.is_floating_point():
        raise ValueError(
            f"event must hold integers, 0 = censored or the cause 1..{num_causes}, got {vector.dtype}"
        )
    _check_range(
        vector, 0, num_causes, f"event must lie in 0..{num_causes} for {num_causes} causes (0 = censored)"
    )
    return vector.long()


def as_bins(y: ArrayOrTensor, num_bins: int, like: Tensor) -> Tensor:
    """(b,) int64 in 0..k-1.

    Raises:
        ValueError: another shape or type, a bin outside 0..k-1.
    """
    vector = as_vector(y, "y", like)
    if vector.is_floating_point() or vector.dtype == torch.bool:
        raise ValueError(
            f"y must hold the integer bin of each patient (TimeBins.transform), got {vector.dtype}"
        )
    _check_range(vector, 0, num_bins - 1, f"y must lie in 0..{num_bins - 1} for logits of {num_bins} bins")
    return vector.long()


def _check_range(values: Tensor, low: int, high: int, rule: str) -> None:
    # Only where looking is free: on a GPU this would stall every step, and gather has its own assertion
    # there.
    if values.device.type == "cpu" and values.numel():
        smallest, largest = int(values.min()), int(values.max())
        if smallest < low or largest > high:
            raise ValueError(f"{rule}, got values from {smallest} to {largest}")


def reduce(terms: Tensor, reduction: str, count: Tensor | None = None) -> Tensor:
    """Sum, mean (over `count` where it is not the number of terms), or nothing; of no terms a zero on the graph.

    Raises:
        ValueError: another name.
    """
    if reduction == "none":
        return terms
    if reduction == "sum":
        return terms.sum()
    if reduction == "mean":
        return terms.sum() / (max(len(terms), 1) if count is None else count)
    raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
