"""Make examples with masks from the one that a user gives: absent patients, missing elements, more padding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from healnet.inputs import Graph, Masked, broadcast_mask, hide, map_tensors

__all__ = [
    "MaskedExample",
    "as_double",
    "element_masked",
    "example_size",
    "extra_axis",
    "more_padding",
    "whole_patient",
]


@dataclass(frozen=True)
class MaskedExample:
    """An input, and which elements of each of its tensors are masked.

    Attributes:
        inputs: Input.
        masked: Per field of the input ("" of a plain tensor), True = masked.
    """

    inputs: Any
    masked: dict[str, Tensor]

    def replaced(self, value: Callable[[Tensor], Tensor]) -> Any:
        """The same input with other numbers instead of what is masked."""

        def replace(tensor: Tensor, name: str) -> Tensor:
            elements = self.masked.get(name)
            if elements is None or not tensor.is_floating_point():
                return tensor
            return torch.where(elements, value(tensor), tensor)

        return map_tensors(replace, self.inputs)


def element_masked(inputs: Any, generator: torch.Generator) -> Iterator[Sequence[MaskedExample]]:
    """Inputs of which about half the elements of each patient are masked, never all.

    Each item is a list of alternatives that an encoder may take the first of: masks over (b, *axes), over every number, and
    over the axes behind channels that come first.
    """
    if isinstance(inputs, Tensor | Masked):
        values = inputs if isinstance(inputs, Tensor) else inputs.values
        own = None if isinstance(inputs, Tensor) else inputs.mask
        shapes = [values.shape[:-1], values.shape] if values.dim() > 2 else [values.shape]
        if values.dim() > 3:
            shapes.append(torch.Size((values.shape[0], *values.shape[2:])))
        if own is not None and own.dim() > 1:
            shapes = [own.shape]
        alternatives = []
        for shape in dict.fromkeys(shapes):
            mask = _some(shape, generator)
            if own is not None:
                mask = mask & broadcast_mask(own, shape)
            first = mask.dim() > 2 and mask.shape == (values.shape[0], *values.shape[2:]) != values.shape[:-1]
            over = (
                mask.unsqueeze(1) if first else mask.reshape(mask.shape + (1,) * (values.dim() - mask.dim()))
            )
            alternatives.append(MaskedExample(Masked(values, mask), {"values": ~over.expand(values.shape)}))
        yield alternatives
        return
    real = getattr(inputs, "mask", None)
    if isinstance(real, Tensor):
        hidden = hide(inputs, ~_some(real.shape, generator))
        yield [MaskedExample(hidden, _masked(hidden))]


def whole_patient(inputs: Any, patient: int) -> MaskedExample:
    """The input with one patient hidden."""
    size = example_size(inputs)
    rows = torch.arange(size) == patient
    hidden = hide(inputs, rows)
    masked = _masked(hidden)

    def add(tensor: Tensor, name: str) -> Tensor:
        if tensor.is_floating_point() and len(tensor) == size:
            masked[name] = masked.get(name, torch.zeros_like(tensor, dtype=torch.bool)) | broadcast_mask(
                rows, tensor.shape
            )
        return tensor

    map_tensors(add, hidden)
    return MaskedExample(hidden, masked)


def more_padding(inputs: Any, extra: int = 3) -> Any | None:
    """The input with more masked elements at the end of the first axis of its mask; None where there is no such axis."""
    mask = getattr(inputs, "mask", None)
    if not isinstance(mask, Tensor) or mask.dim() < 2:
        return None
    if isinstance(inputs, Masked) and inputs.values.shape[: mask.dim()] != mask.shape:
        return None  # channels come first
    if isinstance(inputs, Masked) and inputs.values.dim() == 2:
        return None  # a table, whose features are fixed
    names = ("nodes", "mask", "centroids") if isinstance(inputs, Graph) else inputs._fields

    def longer(tensor: Tensor, name: str) -> Tensor:
        if name not in names or tensor.shape[:2] != mask.shape[:2]:
            return tensor
        more = tensor.new_full(
            (len(tensor), extra, *tensor.shape[2:]), False if tensor.dtype == torch.bool else 7
        )
        return torch.cat([tensor, more], dim=1)

    return map_tensors(longer, inputs)


def as_double(inputs: Any) -> Any:
    """A copy with floating-point numbers in float64."""
    return map_tensors(
        lambda tensor, _: tensor.detach().clone().double() if tensor.is_floating_point() else tensor.clone(),
        inputs,
    )


def extra_axis(inputs: Any) -> Any:
    """The input with an axis too many, of size 2, in every tensor but masks."""
    return map_tensors(
        lambda tensor, _: tensor if tensor.dtype == torch.bool else torch.stack((tensor, tensor), dim=-1),
        inputs,
    )


def example_size(inputs: Any) -> int:
    """Number of patients of an example.

    Raises:
        ValueError: An example that cannot serve: one patient only, batches of different sizes, or non-finite values.
    """
    sizes = set()

    def look(tensor: Tensor, name: str) -> Tensor:
        sizes.add(len(tensor))
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"expected finite example inputs, got NaN or infinity in {name or 'the tensor'}")
        return tensor

    map_tensors(look, inputs)
    if len(sizes) != 1 or min(sizes) < 2:
        raise ValueError(
            f"expected an example batch of at least two patients, got batch sizes {sorted(sizes)}"
        )
    return sizes.pop()


def _some(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """A bool mask over (b, *axes), about half of it True, and at least one of each patient."""
    mask = torch.rand(*shape, generator=generator) < 0.5
    flat = mask.view(len(mask), -1)
    if flat.shape[1]:
        flat[torch.arange(len(flat)), torch.randint(flat.shape[1], (len(flat),), generator=generator)] = True
    return mask


def _masked(inputs: Any) -> dict[str, Tensor]:
    """Return what the masks of a NamedTuple hide: `mask` in all fields of its axes, `edge_mask` in those named edge..."""
    found: dict[str, Tensor] = {}
    fields = inputs._asdict()
    masks = [name for name in fields if name == "mask" or name.endswith("_mask")]
    for mask_name in masks:
        mask, prefix = fields[mask_name], mask_name.removesuffix("mask").removesuffix("_")
        for name, tensor in fields.items():
            covers = (
                name.startswith(prefix)
                if prefix
                else not any(name.startswith(m[:-5]) for m in masks if m != "mask")
            )
            if name not in masks and covers and tensor.shape[: mask.dim()] == mask.shape:
                found[name] = broadcast_mask(~mask, tensor.shape)
    return found
