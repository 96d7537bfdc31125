"""Integrated gradients: the gradient of the risk averaged along the line from a baseline to the patient."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from healnet._evaluation import evaluating
from healnet.explain._batching import copies
from healnet.explain._checks import check_in_memory, modality_names
from healnet.explain._recording import leaf, recording
from healnet.explain.risk import Risk, resolve_risk, risk_of
from healnet.inputs import broadcast_mask, real_elements, repeat, with_values

__all__ = ["integrated_gradients"]

# Share of the scores' total size; 16 steps miss up to 0.06 on the models of tests/explain/test_planted.py.
MISSED = 0.1


def integrated_gradients(
    model: nn.Module,
    inputs: Mapping[str, Any],
    *,
    modalities: Iterable[str] | None = None,
    risk: Risk | None = None,
    baselines: Mapping[str, Tensor] | None = None,
    steps: int = 50,
    rows: int = 256,
) -> dict[str, Tensor]:
    """Gradients of the risk averaged along the straight line from a baseline, times the way (Sundararajan et al. 2017).

    They sum, over all scored modalities of a patient, to risk(inputs) - risk(baseline); a warning says where that misses.
    The baseline is zero unless given, which for standardized features is the training mean. Masks stay as they are: what is
    absent is absent all along the line, and scores 0. Points are those of Gauss and Legendre, taken a few at a time, so that
    memory is that of a few copies of the inputs, however many steps there are.

    Args:
        model: Model that takes `inputs`; used in evaluation mode.
        inputs: modality -> a tensor, or a NamedTuple whose first floating-point field holds the numbers.
        modalities: Names to score; all that are there by default. The others stay as they are.
        risk: Function from the output to one number per patient; by default as `model.output` says.
        baselines: modality -> start of the line, of the shape of its numbers.
        steps: Number of points on the line.
        rows: Patients times points in one forward pass, at most; large inputs are copied less often.

    Shape:
        returns: modality -> as its numbers: (b, f), (b, n, c), ...

    Raises:
        ValueError: An unknown modality; integers; a baseline of another shape or of a modality that is not scored; fewer
            than 1 step; an output that is neither declared nor read by `risk`.
    """
    names = modality_names(inputs, modalities)
    if steps < 1:
        raise ValueError(f"expected steps >= 1, got {steps}")
    check_in_memory(inputs, names)
    points, weights = np.polynomial.legendre.leggauss(steps)
    line = list(zip(((points + 1) / 2).tolist(), (weights / 2).tolist(), strict=True))
    at_once = copies(inputs, rows)
    with evaluating(model), recording(inputs) as inputs, torch.no_grad():
        ends = {name: _real_part(inputs[name], leaf(inputs[name], name)) for name in names}
        starts = {name: torch.zeros_like(end) for name, end in ends.items()}
        for name, start in (baselines or {}).items():
            if name not in ends:
                raise ValueError(f"modality {name!r}: expected baselines of the scored modalities {names}")
            if start.shape != ends[name].shape:
                raise ValueError(
                    f"modality {name!r}: expected a baseline of shape {tuple(ends[name].shape)}, got {tuple(start.shape)}"
                )
            starts[name] = _real_part(inputs[name], start.to(ends[name]))
        slopes = {name: torch.zeros_like(end) for name, end in ends.items()}
        read = resolve_risk(model, inputs, risk)
        for first in range(0, steps, at_once):
            _add_gradients(model, inputs, read, starts, ends, line[first : first + at_once], slopes)
        scores = {name: slopes[name] * (ends[name] - starts[name]) for name in names}
        beginning = {name: with_values(inputs[name], starts[name]) for name in names}
        whole = risk_of(model, inputs, read)
        _warn_if_missed(scores, whole, whole - risk_of(model, {**inputs, **beginning}, read))
    return scores


def _add_gradients(
    model: nn.Module,
    inputs: Mapping[str, Any],
    read: Risk,
    starts: Mapping[str, Tensor],
    ends: Mapping[str, Tensor],
    line: list[tuple[float, float]],
    slopes: dict[str, Tensor],
) -> None:
    """Add the weighted gradients at a few points of the line to `slopes`."""
    repeated = {name: repeat(value, len(line)) for name, value in inputs.items()}
    leaves = {
        name: torch.cat([torch.lerp(starts[name], end, at) for at, _ in line]).requires_grad_()
        for name, end in ends.items()
    }
    moved = {name: with_values(repeated[name], leaf) for name, leaf in leaves.items()}
    with torch.enable_grad():
        value = read(model({**repeated, **moved}))
        found = torch.autograd.grad(value.sum(), list(leaves.values()), allow_unused=True)
    for name, slope in zip(leaves, found, strict=True):
        if slope is not None:
            for (_, weight), part in zip(line, slope.chunk(len(line)), strict=True):
                slopes[name].add_(part, alpha=weight)


def _warn_if_missed(scores: Mapping[str, Tensor], risk: Tensor, change: Tensor) -> None:
    """Warn where the scores of a patient do not sum to the change of the risk."""
    flat = torch.cat([score.flatten(1).to(change.device) for score in scores.values()], dim=1)
    missed, size = (flat.sum(dim=1) - change).abs(), torch.maximum(flat.abs().sum(dim=1), change.abs())
    wrong = missed > MISSED * size + 1e-5 * risk.abs()  # a change below float32's rounding says nothing
    if wrong.any():
        share = float((missed / size)[wrong].max())
        warnings.warn(
            f"the integrated gradients of {int(wrong.sum())} of {len(wrong)} patients miss the change of the risk by up to "
            f"{share:.0%} of their total size: take more steps",
            stacklevel=3,
        )


def _real_part(value: Any, numbers: Tensor) -> Tensor:
    """Numbers of an input, 0 where they are masked, as the gradient is: a NaN there times 0 would be NaN."""
    return numbers.masked_fill(~broadcast_mask(real_elements(value), numbers.shape), 0)
