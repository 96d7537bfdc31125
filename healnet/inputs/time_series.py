"""Measurements at irregular times: `TimeSeries`."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from healnet.inputs.map_tensors import converted

__all__ = ["TimeSeries"]


class TimeSeries(NamedTuple):
    """Measurements at irregular times, short series padded to the longest of the batch.

    Shape:
        values: (b, t, c) float.
        times: (b, t) when each step was measured, in any one unit.
        mask: bool, True = measured. (b, t, c) says which values of a step are real, (b, t) which steps are.
    """

    values: Tensor
    times: Tensor
    mask: Tensor

    def to(self, *args: Any, **kwargs: Any) -> TimeSeries:
        """Move as `Tensor.to` does; a dtype applies to the values alone: a half-precision clock loses the hours."""
        moved: TimeSeries = converted(self, ("values",), *args, **kwargs)
        return moved
