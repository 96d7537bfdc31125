"""Inputs of a model as explanations need them: one modality by name, and how many copies fit into one forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from healnet.inputs import batch_size, map_tensors

__all__ = ["check_modality", "copies"]

COPIED_BYTES = 2**26  # a bag of 100,000 patches must not be copied 256 times


def check_modality(inputs: Mapping[str, Any], modality: str) -> Any:
    """The modality's input.

    Raises:
        ValueError: the inputs do not have it.
    """
    value = inputs.get(modality)
    if value is None:
        have = [name for name, given in inputs.items() if given is not None]
        raise ValueError(f"modality {modality!r} is not among the inputs, which have {have}")
    return value


def copies(inputs: Mapping[str, Any], rows: int) -> int:
    """How many times the batch may stand in one forward pass: `rows` patients, and 64 MiB of inputs, but at least once."""
    sizes: list[int] = []

    def measure(tensor: Tensor, _: str) -> Tensor:
        sizes.append(tensor.numel() * tensor.element_size())
        return tensor

    map_tensors(measure, inputs)
    return max(1, min(rows // batch_size(inputs), COPIED_BYTES // max(1, sum(sizes))))
