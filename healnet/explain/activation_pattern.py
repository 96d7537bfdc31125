"""Activation patterns: which features go along with what the model says, steady where features are correlated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from healnet._evaluation import evaluating
from healnet.explain._checks import check_in_memory, modality_names
from healnet.explain.risk import Risk, resolve_risk, risk_of
from healnet.inputs import real_elements, values_of
from healnet.streams import Stream

__all__ = ["activation_pattern"]


def activation_pattern(
    model: Callable[[Mapping[str, Any]], Any],
    inputs: Mapping[str, Any],
    *,
    modalities: Iterable[str] | None = None,
    risk: Risk | None = None,
    outcome: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """The correlation of each feature with what the model makes of the patients (Haufe et al. 2014, NeuroImage 87:96).

    Among twenty genes that rise and fall together a model may use any three: its gradients then say which three, and other
    folds say others. The pattern says what all twenty have in common with the model's answer, and is steady. It does not
    say that the model reads a gene: a gene it never saw can correlate.

    Args:
        model: Model that takes `inputs`; used in evaluation mode.
        inputs: modality -> a table (b, f), plain or with a mask. Correlations are over real cells.
        modalities: Names to score; by default all that are tables.
        risk: Function from the output to one number per patient; by default as `model.output` says.
        outcome: modality -> (b,) numbers to correlate with instead of the risk, such as `shapley_modalities`, which leaves
            the other modalities out.

    Shape:
        returns: modality -> (f,) in [-1, 1], positive where more of it goes with a higher risk; 0 for a feature or an
            outcome that does not vary.

    Raises:
        ValueError: An unknown modality, one that is no table, an outcome of another shape,
            or an output that is neither declared nor read by `risk`.

    Example:
        >>> genes = torch.tensor([[1.0, 5.0, 0.0], [2.0, 3.0, 0.0], [3.0, 1.0, 0.0]])
        >>> activation_pattern(lambda inputs: inputs["rna"][:, :1], {"rna": genes}, risk=lambda output: output[:, 0])
        {'rna': tensor([ 1., -1.,  0.])}
    """
    names = modality_names(inputs, modalities)
    if modalities is not None:
        check_in_memory(inputs, names)
    names = [name for name in names if not isinstance(inputs[name], Stream)]
    tables = [name for name in names if values_of(inputs[name]).dim() == 2]
    if modalities is not None and tables != names:
        name = next(name for name in names if name not in tables)
        raise ValueError(
            f"modality {name!r}: expected a table (b, f), got values of shape {tuple(values_of(inputs[name]).shape)}"
        )
    if outcome is None:
        with evaluating(model):
            answer = risk_of(model, inputs, resolve_risk(model, inputs, risk))
        outcome = dict.fromkeys(tables, answer)
    return {name: _correlation(inputs[name], outcome[name], name) for name in tables}


def _correlation(table: Any, outcome: Tensor, name: str) -> Tensor:
    """(f,) the correlation of each column's real cells with the outcome (b,)."""
    values, real = values_of(table), real_elements(table)
    if outcome.shape != values.shape[:1]:
        raise ValueError(
            f"modality {name!r}: expected an outcome of shape {tuple(values.shape[:1])}, got {tuple(outcome.shape)}"
        )

    def cells(numbers: Tensor) -> Tensor:
        return numbers.double().masked_fill(~real, 0)

    count = real.sum(dim=0).clamp(min=1)
    x, y = cells(values), cells(outcome.unsqueeze(1).expand(values.shape))
    x0, y0 = (cells(v - v.sum(dim=0) / count) for v in (x, y))
    size = (x0.square().sum(dim=0) * y0.square().sum(dim=0)).sqrt()
    # A column of equal numbers keeps the rounding of its mean: that is no variation.
    flat = size <= 1e-12 * (x.square().sum(dim=0) * y.square().sum(dim=0)).sqrt()
    found = (x0 * y0).sum(dim=0) / torch.where(flat, 1, size)
    return found.masked_fill(flat, 0).to(values.dtype if values.is_floating_point() else torch.float32)
