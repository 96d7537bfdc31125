"""Gradients of the risk with respect to the raw numbers of a patient: direction, and a score for any encoder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from healnet._evaluation import evaluating
from healnet.explain._blocks import joined
from healnet.explain._checks import check_in_memory, modality_names
from healnet.explain._recording import leaf, recording
from healnet.explain.attention_scores import traces_for
from healnet.explain.risk import Risk, resolve_risk
from healnet.fusion import AttentionTrace
from healnet.inputs import real_elements, values_of, with_values
from healnet.streams import Block, Stream

__all__ = ["block_gradients", "gradient_x_input", "input_gradients"]


def input_gradients(
    model: nn.Module,
    inputs: Mapping[str, Any],
    *,
    modalities: Iterable[str] | None = None,
    risk: Risk | None = None,
) -> dict[str, Tensor]:
    """The gradient of each patient's risk with respect to the raw numbers of each modality, in evaluation mode.

    Its sign is a direction: positive where a larger value (higher expression, say) raises the risk.

    Args:
        model: Model that takes `inputs`.
        inputs: modality -> a tensor, or a NamedTuple whose first floating-point field holds the numbers.
        modalities: Names to score; all that are there by default.
        risk: Function from the output to one number per patient; by default as `model.output` says.

    Shape:
        returns: modality -> as its numbers: (b, f), (b, n, c), ...; exactly 0 on what is masked.

    Raises:
        ValueError: An unknown modality, a `Stream`, integers, or an output that is neither declared nor read by `risk`.
    """
    names = modality_names(inputs, modalities)
    check_in_memory(inputs, names)
    with evaluating(model), recording(inputs) as inputs:
        leaves = {name: leaf(inputs[name], name) for name in names}
        joined = {name: with_values(inputs[name], values) for name, values in leaves.items()}
        value = resolve_risk(model, inputs, risk)(model({**inputs, **joined}))
        slopes = torch.autograd.grad(value.sum(), list(leaves.values()), allow_unused=True)
    return {
        name: torch.zeros_like(values) if slope is None else slope.detach()
        for (name, values), slope in zip(leaves.items(), slopes, strict=True)
    }


def gradient_x_input(
    model: nn.Module,
    inputs: Mapping[str, Any],
    *,
    modalities: Iterable[str] | None = None,
    risk: Risk | None = None,
    per_token: bool = False,
) -> dict[str, Tensor]:
    """Gradient of the risk times the input: to first order, what each number adds to the risk against a 0 in its place.

    For standardized features 0 is the training mean. Works behind any encoder, also where attention cannot rank features
    because tokens are learned projections of all of them (`OmicEncoder(tokens=k)`).

    Args:
        model: Model that takes `inputs`.
        inputs: Inputs as for `input_gradients`.
        modalities: Names to score; all that are there by default.
        risk: Function from the output to one number per patient; by default as `model.output` says.
        per_token: Whether to sum over the channels of a token, so that a bag (b, n, c) gives (b, n) and a volume its voxels.
            Then a `Stream` can be scored too, which is read once more in blocks; `write_scores` puts its scores into a file.

    Shape:
        returns: modality -> as its numbers, or without the last axis where it has more axes than elements.

    Raises:
        ValueError: As `input_gradients`, but for a `Stream` with `per_token`.
    """
    names = modality_names(inputs, modalities)
    streamed = [name for name in names if isinstance(inputs[name], Stream)] if per_token else []
    result = {}
    if streamed:
        with evaluating(model), recording(inputs) as inputs:
            _, traces, _ = traces_for("gradient", model, inputs, risk)
            for name in streamed:
                parts = [joined(name, inputs[name], partial(block_gradients, t, name)) for t in traces]
                result[name] = torch.stack(parts).sum(dim=0)
    rest = [name for name in names if name not in streamed]
    slopes = input_gradients(model, inputs, modalities=rest, risk=risk) if rest else {}
    for name, slope in slopes.items():
        score = slope * values_of(inputs[name]).nan_to_num()
        axes = real_elements(inputs[name]).dim()
        result[name] = score.flatten(axes).sum(dim=-1) if per_token and score.dim() > axes else score
    return {name: result[name] for name in names}


def block_gradients(trace: AttentionTrace, modality: str, patient: int) -> Iterator[tuple[Block, Tensor]]:
    """Gradient times input (n,) of the elements of each block of a patient's streamed modality, summed over channels."""
    for block, values, slope in trace.streams[modality].input_gradients(patient):
        yield (
            block,
            (slope * values.nan_to_num()).reshape(*(part.stop - part.start for part in block), -1).sum(-1),
        )
