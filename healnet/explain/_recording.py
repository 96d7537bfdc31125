"""A block of code in which PyTorch records gradients, whatever mode the caller is in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from healnet.inputs import map_tensors, values_of

__all__ = ["leaf", "recording"]


@contextmanager
def recording(inputs: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Record gradients within the block, also within `torch.inference_mode()`, and give inputs that allow it.

    Tensors that were made in inference mode can never be part of a graph, so they are copied.
    """
    with torch.inference_mode(False), torch.enable_grad():
        yield {
            name: map_tensors(lambda tensor, _: tensor.clone() if tensor.is_inference() else tensor, value)
            for name, value in inputs.items()
        }


def leaf(value: Any, modality: str) -> Tensor:
    """The numbers of an input as a tensor of its own, with respect to which gradients can be taken.

    Raises:
        ValueError: Numbers that are integers.
    """
    values = values_of(value).detach()
    if not values.is_floating_point():
        raise ValueError(
            f"modality {modality!r}: expected floating-point numbers, which have a gradient, got {values.dtype}"
        )
    return values.requires_grad_()
