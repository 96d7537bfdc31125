"""Number of copies of a batch that fit into one forward pass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from healnet.inputs import batch_size, map_tensors
from healnet.streams import Stream

__all__ = ["copies"]

COPIED_BYTES = 2**26  # a bag of 100,000 patches must not be copied 256 times


def copies(inputs: Mapping[str, Any], rows: int) -> int:
    """Number of times the batch may stand in one forward pass: `rows` patients and 64 MiB of inputs, but at least once."""
    sizes: list[int] = []

    def measure(tensor: Tensor, _: str) -> Tensor:
        sizes.append(tensor.numel() * tensor.element_size())
        return tensor

    map_tensors(measure, inputs)
    # Of a stream nothing is copied but which elements are hidden.
    streams = [value for value in inputs.values() if isinstance(value, Stream)]
    sizes += [math.prod(p.sizes) for stream in streams for p in stream.patients if p is not None]
    return max(1, min(rows // batch_size(inputs), COPIED_BYTES // max(1, sum(sizes))))
