"""Integrated gradients through captum, where that is installed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from healnet.explain._model import Risk, checked, default_risk, evaluating
from healnet.inputs import real_elements, values_field, values_of, with_values

__all__ = ["integrated_gradients"]


def integrated_gradients(
    model: nn.Module,
    inputs: Mapping[str, Any],
    risk: Risk = default_risk,
    baselines: Mapping[str, Tensor] | None = None,
    steps: int = 50,
    rows: int = 256,
) -> tuple[dict[str, Tensor], Tensor]:
    """Gradients of the risk averaged along the straight line from a baseline, times the way (Sundararajan et al. 2017).

    They sum, over all modalities of a patient, to risk(inputs) - risk(baseline), up to the error returned. The baseline is
    zero unless given, which for standardized features is the training mean. Masks stay as they are: what is absent is
    absent all along the line, and scores 0.

    Args:
        model: any model that takes `inputs`; used in evaluation mode.
        inputs: modality -> a tensor, or a NamedTuple whose first floating-point field holds the numbers.
        risk: one number per patient from the output.
        baselines: modality -> where the line starts, of the shape of its numbers.
        steps: points on the line.
        rows: patients times points in one forward pass.

    Returns:
        modality -> scores of the shape of its numbers, and the error (b,): the scores' sum less the difference of risks.

    Raises:
        ImportError: captum is not installed.
        ValueError: a baseline of another shape or of an unknown modality.
    """
    try:
        from captum.attr import IntegratedGradients
    except ImportError as error:
        raise ImportError("integrated gradients need captum: pip install captum") from error

    given = {name: value for name, value in inputs.items() if value is not None}
    # Zero where masked, as the gradient is: a NaN there times 0 would be NaN.
    values = {name: _real_values(value) for name, value in given.items()}
    starts = {name: torch.zeros_like(v) for name, v in values.items()}
    for name, start in (baselines or {}).items():
        if name not in values or start.shape != values[name].shape:
            expected = tuple(values[name].shape) if name in values else f"one of {list(values)}"
            raise ValueError(f"baseline {name!r}: expected {expected}, got {tuple(start.shape)}")
        starts[name] = start
    # Captum repeats tensors along the line; masks and coordinates ride along as further tensors.
    others = {name: _other_tensors(value) for name, value in given.items()}

    def forward(*tensors: Tensor) -> Tensor:
        numbers = dict(zip(values, tensors, strict=False))
        rest = iter(tensors[len(values) :])
        batch = {}
        for name, value in given.items():
            replaced = {field: next(rest) for field in others[name]}
            batch[name] = with_values(value._replace(**replaced) if replaced else value, numbers[name])
        return checked(risk(model(batch)))

    further = tuple(tensor for fields in others.values() for tensor in fields.values())
    with evaluating(model), torch.enable_grad():
        scores, gap = IntegratedGradients(forward).attribute(
            tuple(values.values()),
            tuple(starts.values()),
            additional_forward_args=further or None,
            n_steps=steps,
            internal_batch_size=max(rows, len(next(iter(values.values())))),
            return_convergence_delta=True,
        )
    return {name: score.detach() for name, score in zip(values, scores, strict=True)}, gap.detach()


def _real_values(value: Any) -> Tensor:
    """The numbers of an input, detached, 0 where they are masked."""
    values, real = values_of(value).detach(), real_elements(value)
    return values.masked_fill(~real.reshape(real.shape + (1,) * (values.dim() - real.dim())), 0)


def _other_tensors(value: Any) -> dict[str, Tensor]:
    """The tensors that travel with an input's numbers."""
    if isinstance(value, Tensor):
        return {}
    fields = {name: getattr(value, name) for name in value._fields if name != values_field(value)}
    return {name: field for name, field in fields.items() if isinstance(field, Tensor)}
