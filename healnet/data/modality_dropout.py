"""Randomly hidden modalities in training: `ModalityDropout`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from healnet.inputs import hide, present

__all__ = ["ModalityDropout"]


class ModalityDropout(nn.Module):
    """Hide, in training, each modality of each patient with probability p, but never all that a patient has.

    A model trained so learns to answer from any subset, which is also a strong regularizer on small cohorts. A patient
    whose modalities would all be hidden keeps one of them, drawn evenly. Where a patient's modality was absent it stays
    so. In `eval()` the inputs come back as they are. Values are not changed, only masks; a plain tensor becomes
    `Masked`.

    Args:
        p: Probability in [0, 1]. At 1 every patient keeps exactly one modality.

    Raises:
        ValueError: P outside [0, 1].

    Example:
        >>> inputs = {"rna": torch.zeros(4, 3), "clinical": torch.zeros(4, 2)}
        >>> hidden = ModalityDropout(1.0)(inputs, generator=torch.Generator().manual_seed(0))
        >>> (hidden["rna"].mask.int() + hidden["clinical"].mask.int()).tolist()  # one each
        [1, 1, 1, 1]
    """

    def __init__(self, p: float = 0.3) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"expected a probability p in [0, 1], got {p}")
        self.p = p

    def forward(self, inputs: Mapping[str, Any], generator: torch.Generator | None = None) -> dict[str, Any]:
        """Hide modalities of `Batch.inputs`.

        Args:
            inputs: By modality a tensor, or a NamedTuple with a bool `mask` whose first axis is b; None = absent for all.
            generator: Source of draws that can be repeated; on its own device.

        Returns:
            The same keys, each with a mask that hides what was drawn.

        Raises:
            ValueError: An input that is neither a tensor nor has a mask, or batch sizes that differ. Names the modality.
        """
        names = [name for name, value in inputs.items() if value is not None]
        if not self.training or self.p == 0 or not names:
            return dict(inputs)
        columns = [_present(name, inputs[name]) for name in names]
        for name, column in zip(names, columns, strict=True):
            if len(column) != len(columns[0]):
                raise ValueError(
                    f"modality {name!r} has {len(column)} patients, modality {names[0]!r} has {len(columns[0])}"
                )
        has = torch.stack(columns, dim=1)
        device = has.device if generator is None else generator.device
        draws = torch.rand(2, *has.shape, generator=generator, device=device).to(has.device)
        keep = draws[0] >= self.p
        # The one to keep where all of a patient's would go: the largest of an even draw among the present.
        chosen = draws[1].masked_fill(~has, -1).argmax(dim=1)
        lost = ~(has & keep).any(dim=1)
        keep |= lost.unsqueeze(1) & nn.functional.one_hot(chosen, len(names)).bool()
        hidden = dict(inputs)
        for name, kept in zip(names, keep.unbind(dim=1), strict=True):
            hidden[name] = hide(inputs[name], ~kept)
        return hidden

    def extra_repr(self) -> str:
        """Return the text that `repr` shows."""
        return f"p={self.p}"


def _present(name: str, value: Any) -> Tensor:
    try:
        return present(value)
    except ValueError as error:
        raise ValueError(f"modality {name!r}: {error}") from error
