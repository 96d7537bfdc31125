"""What every subpackage does with an input, whatever its type.

An input is a tensor, a `Stream`, or a NamedTuple of tensors with a bool field `mask`; one whose other fields depend on the
mask brings its own `with_mask`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from healnet.inputs.map_tensors import map_tensors
from healnet.inputs.masked import Hidden, Masked
from healnet.streams import Stream

__all__ = [
    "batch_size",
    "broadcast_mask",
    "element_mask",
    "hide",
    "move",
    "present",
    "real_elements",
    "repeat",
    "take",
    "unmask",
    "values_field",
    "values_of",
    "with_mask",
    "with_values",
]


def take(value: Any, index: Tensor) -> Any:
    """The patients `index` (positions or a bool mask) of one modality's input.

    Example:
        >>> take(Masked(torch.eye(3), torch.ones(3, dtype=torch.bool)), torch.tensor([2])).values
        tensor([[0., 0., 1.]])
    """
    if isinstance(value, Stream):
        return value.take(index)
    return map_tensors(lambda tensor, _: tensor[index], value)


def repeat(value: Any, times: int) -> Any:
    """The whole batch `times` times over: patients 0, 1, ..., 0, 1, ..."""
    if times == 1:
        return value
    if isinstance(value, Stream):
        return value.repeat(times)
    return map_tensors(lambda tensor, _: tensor.repeat(times, *[1] * (tensor.dim() - 1)), value)


def move(value: Any, device: torch.device | str, non_blocking: bool = False) -> Any:
    """The same input on another device; types of numbers are kept."""
    if isinstance(value, Stream):
        return value.to(device)
    return map_tensors(lambda tensor, _: tensor.to(device, non_blocking=non_blocking), value)


def present(value: Any) -> Tensor:
    """(b,) bool: which patients have any of this modality.

    Raises:
        ValueError: Neither a tensor nor a NamedTuple with a mask.

    Example:
        >>> present(Masked(torch.zeros(2, 2), torch.tensor([[True, False], [False, False]]))).tolist()
        [True, False]
    """
    if isinstance(value, Tensor):
        return torch.ones(len(value), dtype=torch.bool, device=value.device)
    if isinstance(value, Stream):
        return value.present
    mask = _mask_of(value)
    return mask if mask.dim() == 1 else mask.flatten(1).any(dim=1)


def hide(value: Any, where: Tensor) -> Any:
    """The input without what `where` marks. Values stay as they are; only masks change, and a tensor becomes `Masked`.

    An image or volume without some of its elements becomes `Hidden`, by which the others keep their places.

    Args:
        value: Tensor, or a NamedTuple with a mask.
        where: Mask, True = hide: (b,) for whole patients, (b, *axes) for elements, or (1, *axes) for the same of all.

    Raises:
        ValueError: An input that cannot be masked.

    Example:
        >>> hide(torch.zeros(3, 5), torch.tensor([True, False, False])).mask.tolist()
        [False, True, True]
    """
    if isinstance(value, Stream):
        return value.hide(where)
    if isinstance(value, Tensor):
        value = Masked(value, torch.ones(len(value), dtype=torch.bool, device=value.device))
    mask = _mask_of(value)
    axes = max(mask.dim(), where.dim())
    before = _trailing(mask, axes)
    shown = before & ~_trailing(where.to(mask.device), axes)
    if isinstance(value, Masked) and value.values.dim() > 2 and where.dim() > 1:
        return Hidden(value.values, shown, before.expand_as(shown))
    return with_mask(value, shown)


def with_mask(value: Any, mask: Tensor) -> Any:
    """The same input with another mask. A type whose other fields depend on the mask brings its own `with_mask`."""
    own = getattr(value, "with_mask", None)
    return value._replace(mask=mask) if own is None else own(mask)


def values_field(value: Any) -> str | None:
    """The field of a NamedTuple that holds its numbers: the first floating-point one. None for a tensor.

    Raises:
        ValueError: Neither a tensor nor a NamedTuple with such a field.
    """
    if isinstance(value, Tensor):
        return None
    for name in getattr(value, "_fields", ()):
        field = getattr(value, name)
        if isinstance(field, Tensor) and field.is_floating_point():
            return str(name)
    raise ValueError(f"expected a tensor or a NamedTuple of tensors, got {type(value).__name__}")


def values_of(value: Any) -> Tensor:
    """The numbers of an input: a tensor itself, or the first floating-point field."""
    field = values_field(value)
    numbers: Tensor = value if field is None else getattr(value, field)
    return numbers


def with_values(value: Any, values: Tensor) -> Any:
    """The same input with other numbers."""
    field = values_field(value)
    return values if field is None else value._replace(**{field: values})


def real_elements(value: Any) -> Tensor:
    """(b, *axes) bool: which elements are real; the axes of the mask, else those of the values without their channels.

    A plain (b, f) tensor is taken for a table, whose elements are its features.
    """
    if isinstance(value, Stream):
        return value.real
    values, mask = values_of(value), getattr(value, "mask", None)
    if mask is not None and mask.dim() > 1:
        return mask
    shape = values.shape if values.dim() <= 2 else values.shape[:-1]
    if mask is None:
        return torch.ones(shape, dtype=torch.bool, device=values.device)
    return broadcast_mask(mask, shape)


def batch_size(inputs: Mapping[str, Any]) -> int:
    """Number of patients in the inputs of a model.

    Raises:
        ValueError: No modality at all.
    """
    for value in inputs.values():
        if value is not None:
            return len(value) if isinstance(value, Stream) else len(values_of(value))
    raise ValueError("expected inputs with at least one modality, got none")


def unmask(value: Tensor | Masked | Hidden) -> tuple[Tensor, Tensor | None]:
    """The values and the mask of a plain tensor (no mask: all present) or of `Masked`.

    Raises:
        ValueError: Anything else, or a mask that is not boolean.
    """
    if isinstance(value, Tensor):
        return value, None
    if isinstance(value, Masked | Hidden):
        others = [type(part).__name__ for part in value if not isinstance(part, Tensor)]
        if others:
            number = "two" if isinstance(value, Masked) else "three"
            raise ValueError(f"expected {type(value).__name__} to hold {number} tensors, got {others[0]}")
        if value.mask.dtype != torch.bool:
            raise ValueError(f"expected a bool mask (True = real), got {value.mask.dtype}")
        return value.values, value.mask
    raise ValueError(f"expected a tensor or Masked(values, mask), got {type(value).__name__}")


def broadcast_mask(mask: Tensor, shape: Sequence[int]) -> Tensor:
    """A mask over the first axes, expanded to all of `shape`.

    Raises:
        ValueError: A mask that is not over the first axes.

    Example:
        >>> broadcast_mask(torch.tensor([True, False]), (2, 3)).tolist()
        [[True, True, True], [False, False, False]]
    """
    if tuple(mask.shape) != tuple(shape[: mask.dim()]):
        raise ValueError(
            f"expected a mask over the first axes of shape {tuple(shape)}, got {tuple(mask.shape)}"
        )
    return _trailing(mask, len(shape)).expand(*shape)


def element_mask(mask: Tensor | None, shape: Sequence[int]) -> Tensor | None:
    """A mask per patient (b,) or per element as one of exactly `shape`; None stays None.

    Raises:
        ValueError: A mask of any other shape.
    """
    if mask is None or mask.shape == shape:
        return mask
    if mask.shape == shape[:1]:
        return broadcast_mask(mask, shape)
    raise ValueError(
        f"expected a mask of shape {tuple(shape[:1])} or {tuple(shape)}, got {tuple(mask.shape)}"
    )


def _mask_of(value: Any) -> Tensor:
    mask = getattr(value, "mask", None)
    if not isinstance(mask, Tensor) or not hasattr(value, "_replace"):
        raise ValueError(f"expected a tensor or a NamedTuple with a mask, got {type(value).__name__}")
    return mask


def _trailing(mask: Tensor, axes: int) -> Tensor:
    """The mask with axes of size 1 appended, so that it has `axes` of them."""
    return mask.reshape(mask.shape + (1,) * (axes - mask.dim()))
