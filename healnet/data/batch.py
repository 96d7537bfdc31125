"""Patients of one training step: `Batch`."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from healnet.data.checks import check_finite
from healnet.data.summary import to_html
from healnet.inputs import map_tensors, move, present, values_of

__all__ = ["Batch", "encode_ids"]


class Batch(NamedTuple):
    """Input of a model and a loss: the inputs of b patients, their survival, their labels, and who they are.

    An item of `CohortDataset` is one of these without the axis b. Every leaf is a tensor, so that PyTorch's default
    collation, pinning and scattering work, and with them Lightning, accelerate (`dispatch_batches=True` too) and gathering
    over processes. As of any NamedTuple, `len` counts the fields; `len(batch.patients)` are the patients.

    Shape:
        inputs: modality -> Tensor, `Masked`, `PatchBag` or another NamedTuple of tensors, each with a leading axis b.
        outcomes: "time" -> (b,) float64 and "event" -> (b,) bool, True = observed; empty for a cohort without outcomes.
            Not float32, in which a time may round to the other side of the bin edge it defines.
        labels: name -> (b,), int64 for classes (-100 where unknown, which `torch.nn.functional.cross_entropy` leaves out)
            and floating point for numbers (NaN where unknown).
        ids: (b, w) uint8, the patients' ids in UTF-8, filled up with zeros. `patients` reads them.

    Example:
        >>> from healnet.data import CohortDataset
        >>> from healnet.datasets import load_mini_acc
        >>> batch = CohortDataset(load_mini_acc().select(["clinical", "rna"])).batch([3, 0])
        >>> batch
        Batch(2 patients, clinical 2x5, rna 2x198 (1 have it), time, event)
        >>> batch.patients
        ['TCGA-OR-A5J4', 'TCGA-OR-A5J1']
    """

    inputs: dict[str, Any]
    outcomes: dict[str, Tensor]
    labels: dict[str, Tensor]
    ids: Tensor

    @classmethod
    def of(
        cls,
        inputs: dict[str, Any],
        patients: str | Iterable[str],
        time: Tensor | None = None,
        event: Tensor | None = None,
        labels: dict[str, Tensor] | None = None,
    ) -> Batch:
        """A batch from ids as text, or an item from one id.

        Raises:
            ValueError: A value of the inputs that is not finite and not masked; names the modality.

        Example:
            >>> Batch.of({"rna": torch.zeros(2, 3)}, ["a", "b"])
            Batch(2 patients, rna 2x3)
        """
        of_one = isinstance(patients, str)
        for name, value in inputs.items():
            if isinstance(value, Tensor) or hasattr(value, "_fields"):
                check_finite(f"modality {name!r}" + (f", patient {patients!r}" if of_one else ""), value)
        ids = encode_ids([patients])[0] if isinstance(patients, str) else encode_ids(patients)
        outcomes = {name: value for name, value in (("time", time), ("event", event)) if value is not None}
        return cls(inputs, outcomes, labels or {}, ids)

    @property
    def time(self) -> Tensor:
        """(b,) float64 follow-up times.

        Raises:
            ValueError: A batch without outcomes; `outcomes` is empty then.
        """
        return self._outcome("time")

    @property
    def event(self) -> Tensor:
        """(b,) bool, True = the event was observed.

        Raises:
            ValueError: A batch without outcomes; `outcomes` is empty then.
        """
        return self._outcome("event")

    @property
    def patients(self) -> list[str]:
        """The b ids, the same whatever part of a cohort the batch is from: what `Cohort.locate` and a table's index take."""
        rows = np.ascontiguousarray(self.ids.cpu().numpy())
        return [name.decode() for name in rows.view(f"S{rows.shape[-1]}").ravel()]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Everything on that device. Where it has no float64 (mps), numbers become float32."""

        def narrow(tensor: Tensor, _: str) -> Tensor:
            return tensor.float() if tensor.dtype == torch.float64 else tensor

        batch = map_tensors(narrow, self) if torch.device(device).type == "mps" else self
        moved: Batch = move(batch, device, non_blocking)
        return moved

    def _outcome(self, name: str) -> Tensor:
        if name not in self.outcomes:
            raise ValueError(f"the batch has no {name}: its cohort was built without a target")
        return self.outcomes[name]

    def __repr__(self) -> str:
        is_item = self.ids.dim() == 1
        parts = ["1 patient" if is_item else f"{len(self.ids)} patients"]
        parts += [_short(name, value, is_item) for name, value in self.inputs.items()]
        return f"Batch({', '.join([*parts, *self._rest()])})"

    def _repr_html_(self) -> str:
        rows = [
            (
                name,
                _short("", value, self.ids.dim() == 1).strip(),
                "" if value is None else values_of(value).dtype,
            )
            for name, value in self.inputs.items()
        ]
        rest = [(name, "x".join(map(str, value.shape)), value.dtype) for name, value in self._rest().items()]
        columns = ["", "shape", "type"]
        return f"<div>{escape(repr(self))}{to_html(pd.DataFrame([*rows, *rest], columns=columns).astype(str))}</div>"

    def _rest(self) -> dict[str, Tensor]:
        return self.outcomes | {f"label {name}": value for name, value in self.labels.items()}


def encode_ids(ids: Iterable[str]) -> Tensor:
    """(n, w) uint8 tensor of n ids in UTF-8, w the bytes of the longest.

    Example:
        >>> encode_ids(["a", "bc"]).tolist()
        [[97, 0], [98, 99]]
    """
    names = np.array([name.encode() for name in ids], dtype=np.bytes_)
    return torch.from_numpy(names.view(np.uint8).reshape(len(names), names.itemsize).copy())


def _short(name: str, value: Any, is_item: bool) -> str:
    """A modality by its shape, and how many have it where not all do."""
    if value is None:
        return f"{name} absent"
    first = value if isinstance(value, Tensor) else value[0]
    shown = f"{name} {'x'.join(map(str, first.shape))}"
    if is_item or isinstance(value, Tensor) or value.mask.is_meta:
        return shown
    have = int(present(value).sum())
    return shown if have == len(first) else f"{shown} ({have} have it)"
