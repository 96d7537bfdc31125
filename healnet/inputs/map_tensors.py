"""A function of every tensor of an input, whatever its type: `map_tensors`, and `converted` for moving it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["converted", "map_tensors"]


def map_tensors(function: Callable[[Tensor, str], Tensor], value: Any, name: str = "") -> Any:
    """The same input with each of its tensors replaced by `function(tensor, field)`.

    Args:
        function: Function called with every tensor and the name of its field ("" for a plain tensor).
        value: Tensor, NamedTuple, tuple, list or mapping, nested to any depth; anything else stays as it is.
        name: Field name of a plain tensor.
    """
    if isinstance(value, Tensor):
        return function(value, name)
    if isinstance(value, Mapping):
        return {key: map_tensors(function, part, key) for key, part in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        parts = zip(value, value._fields, strict=True)
        return type(value)(*[map_tensors(function, part, field) for part, field in parts])
    if type(value) in (tuple, list):
        return type(value)(map_tensors(function, part) for part in value)
    return value


def converted(value: Any, fields: tuple[str, ...], *args: Any, **kwargs: Any) -> Any:
    """`Tensor.to(*args, **kwargs)` for some fields; the others change their device and keep their type."""
    device = kwargs.get("device")
    for arg in args:
        if isinstance(arg, Tensor):
            device = arg.device
        elif isinstance(arg, (str, int, torch.device)) and not isinstance(arg, bool):
            device = arg

    def placed(tensor: Tensor, field: str) -> Tensor:
        if field in fields:
            return tensor.to(*args, **kwargs)
        return tensor if device is None else tensor.to(device, non_blocking=kwargs.get("non_blocking", False))

    return map_tensors(placed, value)
