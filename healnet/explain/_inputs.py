"""A model's inputs with parts of them hidden: absence is supported by every encoder, so leaving out is exact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from healnet.tokens import Masked, with_mask

__all__ = [
    "batch_size",
    "check_modality",
    "copies",
    "element_mask_of",
    "hide",
    "main_field",
    "main_values",
    "present",
    "repeat_rows",
    "with_values",
]

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


def main_field(value: Any) -> str | None:
    """The field of a NamedTuple that holds its numbers: the first floating-point one. None for a tensor.

    Raises:
        ValueError: neither a tensor nor a NamedTuple with such a field.
    """
    if isinstance(value, Tensor):
        return None
    for name in getattr(value, "_fields", ()):
        field = getattr(value, name)
        if isinstance(field, Tensor) and field.is_floating_point():
            return str(name)
    raise ValueError(f"expected a tensor or a NamedTuple of tensors, got {type(value).__name__}")


def main_values(value: Any) -> Tensor:
    """The numbers of an input."""
    field = main_field(value)
    numbers: Tensor = value if field is None else getattr(value, field)
    return numbers


def with_values(value: Any, values: Tensor) -> Any:
    """The same input with other numbers."""
    field = main_field(value)
    return values if field is None else value._replace(**{field: values})


def element_mask_of(value: Any) -> Tensor:
    """(b, *axes) bool: which elements are real; the axes of the mask, else those of the values less their channels.

    A plain (b, f) tensor is taken for a table, whose elements are its features.
    """
    values, mask = main_values(value), getattr(value, "mask", None)
    if mask is not None and mask.dim() > 1:
        return mask
    shape = values.shape if values.dim() <= 2 else values.shape[:-1]
    if mask is None:
        return torch.ones(shape, dtype=torch.bool, device=values.device)
    return _broadcast(mask, len(shape)).expand(shape)


def present(value: Any) -> Tensor:
    """(b,) bool: who has any of this modality."""
    mask = getattr(value, "mask", None)
    if mask is None:
        values = main_values(value)
        return torch.ones(len(values), dtype=torch.bool, device=values.device)
    return mask if mask.dim() == 1 else mask.flatten(1).any(dim=1)


def hide(value: Any, where: Tensor) -> Any:
    """The input without what `where` marks.

    Args:
        value: a tensor, or a NamedTuple with a `mask`.
        where: bool, (b,) for whole patients or (b, *axes) for elements; one patient's may stand for all.

    Raises:
        ValueError: an input that cannot be masked.
    """
    if isinstance(value, Tensor):
        where = where.expand(len(value), *where.shape[1:])
        return Masked(value, ~where.to(value.device))
    mask = getattr(value, "mask", None)
    if not isinstance(mask, Tensor) or not hasattr(value, "_replace"):
        raise ValueError(f"expected a tensor or a NamedTuple with a mask, got {type(value).__name__}")
    axes = max(mask.dim(), where.dim())
    shown = _broadcast(mask, axes) & ~_broadcast(where.to(mask.device), axes)
    return with_mask(value, shown)


def repeat_rows(value: Any, times: int) -> Any:
    """Each tensor's rows, the whole batch `times` times over: b0 b1 b0 b1 ..."""
    if value is None or times == 1:
        return value
    if isinstance(value, Tensor):
        return value.repeat(times, *[1] * (value.dim() - 1))
    return type(value)(*[repeat_rows(field, times) for field in value])


def copies(inputs: Mapping[str, Any], rows: int) -> int:
    """How many times the batch may stand in one forward pass: `rows` patients, and 64 MiB of inputs, but at least once."""
    size = sum(_bytes(value) for value in inputs.values())
    return max(1, min(rows // batch_size(inputs), COPIED_BYTES // max(1, size)))


def _bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    return 0 if value is None else sum(_bytes(field) for field in value)


def batch_size(inputs: Mapping[str, Any]) -> int:
    """Patients in the inputs.

    Raises:
        ValueError: no modality at all.
    """
    for value in inputs.values():
        if value is not None:
            return len(main_values(value))
    raise ValueError("expected inputs with at least one modality, got none")


def _broadcast(mask: Tensor, axes: int) -> Tensor:
    return mask.reshape(mask.shape + (1,) * (axes - mask.dim()))
