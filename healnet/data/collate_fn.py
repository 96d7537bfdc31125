"""Batches of patients who differ in size, padded and masked: `collate`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from healnet.data.batch import Batch
from healnet.inputs import Masked

__all__ = ["collate"]

LARGE = 1 << 22  # bytes from which NumPy takes huge pages


def collate(items: Sequence[Batch]) -> Batch:
    """Items of `CohortDataset` into one `Batch`, padded where patients differ in size; padding is masked.

    Fields of one name are stacked; along an axis in which they differ they are padded at the end, with zeros, and masks
    with False. The width of a token or channel must be the same for all: the axes that a mask does not have, last. Images
    and volumes (c, *axes) are known by their masks over the axes, which `Cohort(..., channels_first=[...])` makes.

    Numbers are not looked at: `Cohort`, the readers of files and `Batch.of` have refused what is not finite.

    Args:
        items: Items of one or more patients, each with the same modalities.

    Raises:
        ValueError: No items; modalities or types or widths that differ between patients. Each names the modality and the
            patient.

    Example:
        >>> from healnet.inputs import PatchBag
        >>> def patient(name, n):
        ...     bag = PatchBag(torch.ones(n, 4), torch.zeros(n, 2), torch.ones(n, dtype=torch.bool))
        ...     return Batch.of({"slide": bag}, name)
        >>> collate([patient("a", 3), patient("b", 0)]).inputs["slide"].mask.tolist()
        [[True, True, True], [False, False, False]]
    """
    if not items:
        raise ValueError("expected at least one item to collate")
    ids = _pad([item.ids for item in items])
    patients = Batch({}, {}, {}, ids).patients
    first = items[0]
    for patient, item in zip(patients, items, strict=True):
        for field, why in (
            ("inputs", "an absent modality is one with a mask of False"),
            ("outcomes", "patients without outcomes make a batch of their own"),
            ("labels", "an unknown class is -100, an unknown number NaN"),
        ):
            has, had = sorted(getattr(item, field)), sorted(getattr(first, field))
            if has != had:
                raise ValueError(
                    f"patient {patient!r} has the {field} {has}, patient {patients[0]!r} {had}; {why}"
                )
    inputs = {
        name: _collate_modality(name, [item.inputs[name] for item in items], patients)
        for name in first.inputs
    }
    outcomes = {name: torch.stack([item.outcomes[name] for item in items]) for name in first.outcomes}
    labels = {name: torch.stack([item.labels[name] for item in items]) for name in first.labels}
    return Batch(inputs, outcomes, labels, ids)


def _collate_modality(name: str, values: list[Any], patients: list[str]) -> Any:
    kind = type(values[0])
    for value, patient in zip(values, patients, strict=True):
        if type(value) is not kind:
            raise ValueError(
                f"modality {name!r}: patient {patient!r} is a {type(value).__name__}, the first a {kind.__name__}"
            )
    if isinstance(values[0], Tensor):
        if len({value.shape for value in values}) == 1:
            return torch.stack(values)
        values, kind = [Masked(value, torch.tensor(True)) for value in values], Masked
    if not hasattr(kind, "_fields") or "mask" not in kind._fields:
        raise ValueError(
            f"modality {name!r}: expected tensors or NamedTuples with a mask, got {kind.__name__}"
        )
    if kind is Masked and _channels_first(values):
        last = [Masked(value.values.movedim(0, -1), value.mask) for value in values]
        padded: Masked = _collate_modality(name, last, patients)
        return Masked(padded.values.movedim(-1, 1).contiguous(), padded.mask)
    if kind is Masked:
        values = _with_element_masks(values)
    masks = _pad([value.mask for value in values])
    fields = []
    for field in kind._fields:
        parts = [getattr(value, field) for value in values]
        if field == "mask":
            fields.append(masks)
            continue
        if field not in getattr(kind, "ragged", tuple)():
            _refuse_other_widths(name, field, parts, masks.dim() - 1, patients)
        fields.append(_pad(parts))
    return kind(*fields)


def _channels_first(values: list[Masked]) -> bool:
    """True if arrays of several sizes are (c, *axes): their masks fit the last axes, and not all the first."""
    masked = [(value.values.shape, value.mask.shape) for value in values if value.mask.dim()]
    if len({value.values.shape for value in values}) == 1 or not masked:
        return False
    fit_last = all(mask == shape[1:] for shape, mask in masked)
    return fit_last and any(mask != shape[: len(mask)] for shape, mask in masked)


def _with_element_masks(values: list[Masked]) -> list[Masked]:
    """One presence per patient is enough where all are of one size; elsewhere the mask must say which are real."""
    if (
        len({value.values.shape for value in values}) == 1
        and len({value.mask.dim() for value in values}) == 1
    ):
        return values
    axes = max(1, max(max(value.mask.dim(), value.values.dim() - 1) for value in values))
    axes = max([value.mask.dim() for value in values if value.mask.dim()], default=axes)
    return [
        value if value.mask.dim() else Masked(value.values, value.mask.expand(value.values.shape[:axes]))
        for value in values
    ]


def _pad(parts: list[Tensor]) -> Tensor:
    """Stacked, each padded with zeros at the end of every axis to the longest."""
    small = len(parts) * parts[0].nbytes < LARGE or parts[0].device.type != "cpu"
    if len({part.shape for part in parts}) == 1 and small:
        return torch.stack(parts)
    dtype = parts[0].dtype
    for part in parts[1:]:
        dtype = torch.promote_types(dtype, part.dtype)
    longest = [max(sizes) for sizes in zip(*[part.shape for part in parts], strict=True)]
    padded = _new([len(parts), *longest], dtype)
    for i, part in enumerate(parts):
        row = padded[i]
        if list(part.shape[1:]) == longest[1:]:
            row[len(part) :] = 0
        else:
            row.zero_()
        row[tuple(slice(size) for size in part.shape)] = part
    return padded


def _new(shape: list[int], dtype: torch.dtype) -> Tensor:
    """Memory that is not written yet: in a loader's worker shared memory, else NumPy's.

    Shared memory, as `torch.utils.data.default_collate` takes it, is sent to the main process without a copy. NumPy asks
    Linux for huge pages, of which the first write is five times as fast.
    """
    if math.prod(shape) == 0:
        return torch.empty(shape, dtype=dtype)
    if torch.utils.data.get_worker_info() is not None:
        storage = torch.UntypedStorage._new_shared(math.prod(shape) * dtype.itemsize)
        return torch.empty(0, dtype=dtype).set_(storage).view(shape)
    memory = np.empty(math.prod(shape) * dtype.itemsize, np.uint8)
    return torch.from_numpy(memory).view(dtype).view(shape)


def _refuse_other_widths(name: str, field: str, parts: list[Tensor], axes: int, patients: list[str]) -> None:
    for part, patient in zip(parts, patients, strict=True):
        if part.dim() != parts[0].dim() or part.shape[axes:] != parts[0].shape[axes:]:
            raise ValueError(
                f"modality {name!r}: {field} of patient {patient!r} have shape {tuple(part.shape)}, "
                f"those of patient {patients[0]!r} {tuple(parts[0].shape)}; they may differ in {_first(axes)} only"
            )


def _first(axes: int) -> str:
    return "the first axis" if axes == 1 else f"the first {axes} axes"
