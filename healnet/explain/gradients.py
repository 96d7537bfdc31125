"""Gradients of the risk with respect to the raw numbers of a patient: direction, and a score for any encoder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from healnet.explain._model import Risk, checked, default_risk, evaluating
from healnet.inputs import real_elements, values_of, with_values

__all__ = ["gradient_x_input", "input_gradients"]


def input_gradients(
    model: nn.Module,
    inputs: Mapping[str, Any],
    risk: Risk = default_risk,
    modalities: Iterable[str] | None = None,
) -> dict[str, Tensor]:
    """The gradient of each patient's risk with respect to the raw numbers of each modality.

    Its sign is a direction: positive where a larger value (higher expression, say) raises the risk. In evaluation mode.

    Args:
        model: any model that takes `inputs`.
        inputs: modality -> a tensor, or a NamedTuple whose first floating-point field holds the numbers.
        risk: one number per patient from the output.
        modalities: which ones; all that are there by default.

    Shape:
        returns: modality -> as its numbers: (b, f), (b, n, c), ...; exactly 0 on what is masked.

    Raises:
        ValueError: an unknown modality, or a risk that is not one number per patient.
    """
    names = [name for name, value in inputs.items() if value is not None]
    wanted = names if modalities is None else list(modalities)
    for name in wanted:
        if name not in names:
            raise ValueError(f"modality {name!r} is not among the inputs, which have {names}")
    leaves = {name: values_of(inputs[name]).detach().requires_grad_() for name in wanted}
    joined = {name: with_values(inputs[name], leaf) for name, leaf in leaves.items()}
    with evaluating(model), torch.enable_grad():
        value = checked(risk(model({**inputs, **joined})))
        slopes = torch.autograd.grad(value.sum(), list(leaves.values()), allow_unused=True)
    return {
        name: torch.zeros_like(leaf) if slope is None else slope.detach()
        for (name, leaf), slope in zip(leaves.items(), slopes, strict=True)
    }


def gradient_x_input(
    model: nn.Module,
    inputs: Mapping[str, Any],
    risk: Risk = default_risk,
    modalities: Iterable[str] | None = None,
    per_token: bool = False,
) -> dict[str, Tensor]:
    """Gradient of the risk times the input: to first order, what each number adds to the risk against a 0 in its place.

    For standardized features 0 is the training mean. Works behind any encoder, also where attention cannot rank features
    because tokens are learned projections of all of them (`OmicEncoder(tokens=k)`).

    Args:
        model: any model that takes `inputs`.
        inputs: as for `input_gradients`.
        risk: one number per patient from the output.
        modalities: which ones; all that are there by default.
        per_token: sum over the channels of a token, so that a bag (b, n, c) gives (b, n) and a volume its voxels.

    Shape:
        returns: modality -> as its numbers, or without the last axis where it has more axes than elements.

    Raises:
        ValueError: as `input_gradients`.
    """
    result = {}
    for name, slope in input_gradients(model, inputs, risk, modalities).items():
        score = slope * values_of(inputs[name]).nan_to_num()
        axes = real_elements(inputs[name]).dim()
        result[name] = score.flatten(axes).sum(dim=-1) if per_token and score.dim() > axes else score
    return result
