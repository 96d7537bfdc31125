"""Scores per token from attention: where the model looked, through all layers, and in which direction it mattered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from healnet._evaluation import evaluating
from healnet.explain._blocks import joined
from healnet.explain._checks import modality_names
from healnet.explain._recording import recording
from healnet.explain.risk import Risk, resolve_risk
from healnet.fusion import AttentionTrace, HEALNet
from healnet.fusion.trace import Keep
from healnet.nn.chunked_attention import no_autocast
from healnet.streams import Block
from healnet.training import TrainedModel

__all__ = [
    "AttentionMethod",
    "attention_scores",
    "block_scores",
    "gradient_attention",
    "mean_attention",
    "rollout",
    "traces_for",
]

AttentionMethod = Literal["mean", "rollout", "gradient"]


def attention_scores(
    model: HEALNet | TrainedModel,
    inputs: Mapping[str, Any],
    *,
    modalities: Iterable[str] | None = None,
    risk: Risk | None = None,
    method: AttentionMethod = "gradient",
) -> dict[str, Tensor]:
    """One score per token of every modality, in one pass, in evaluation mode.

    A `Stream` is read once more in blocks, and the scores of all its elements are held in memory; `write_scores` puts them
    into a file instead.

    Args:
        model: HEALNet to trace, or a trained model of one or several: the mean of their scores, and for "gradient" what
            they are together, exactly.
        inputs: Inputs of `model.forward`.
        modalities: Names to score; all that are there by default.
        risk: Function from the output to one number per patient, for "gradient"; by default as `model.output` says.
        method: "mean" (`mean_attention`), "rollout" (`rollout`) or "gradient" (`gradient_attention`).

    Shape:
        returns: modality -> (b, n); 0 on masked tokens.

    Raises:
        ValueError: Another method; an unknown modality; for "gradient", an output that is
            neither declared nor read by `risk`.

    Example:
        >>> from healnet.encoders import OmicEncoder
        >>> model = HEALNet({"rna": OmicEncoder(5)})
        >>> attention_scores(model, {"rna": torch.zeros(2, 5)}, method="mean")["rna"].sum(dim=1).round(decimals=3)
        tensor([1., 1.])
    """
    if method not in ("mean", "rollout", "gradient"):
        raise ValueError(f"expected method 'mean', 'rollout' or 'gradient', got {method!r}")
    names = modality_names(inputs, modalities)
    with evaluating(model):
        _, traces, weight = traces_for(method, model, inputs, risk)
        parts = [_scores(method, trace, names) for trace in traces]
    return {name: weight * torch.stack([part[name] for part in parts]).sum(dim=0) for name in parts[0]}


def traces_for(
    method: AttentionMethod, model: nn.Module, inputs: Mapping[str, Any], risk: Risk | None
) -> tuple[Any, list[AttentionTrace], float]:
    """The output, a trace of each network that holds what the method needs, and the weight of their scores in the sum.

    The model is in evaluation mode.
    """
    networks: list[Any] = list(model.models) if isinstance(model, TrainedModel) else [model]
    if method != "gradient":
        with torch.no_grad():
            keep: Keep = "latents" if method == "rollout" else "none"
            found = [network.trace(inputs, keep=keep) for network in networks]
        output = model.combine([x for x, _ in found]) if isinstance(model, TrainedModel) else found[0][0]
        return output, [trace for _, trace in found], 1 / len(networks)
    with recording(inputs) as recorded:
        if not isinstance(model, TrainedModel):
            output, trace = networks[0].trace(recorded, gradient_of=resolve_risk(model, recorded, risk))
            return output, [trace], 1.0
        output, slopes = _slopes(model, recorded, resolve_risk(model, recorded, risk))
        traces = []
        for network, slope in zip(networks, slopes, strict=True):
            own = partial(_weighted, slope=slope)
            traces.append(network.trace(recorded, gradient_of=own)[1])
        return output, traces, 1.0


def _slopes(model: TrainedModel, inputs: Mapping[str, Any], risk: Risk) -> tuple[Tensor, list[Tensor]]:
    """The prediction, and the gradient of its risk with respect to each network's output: the chain rule's first factor."""
    with torch.no_grad():
        raw = [network(inputs) for network in model.models]
    with torch.inference_mode(False), torch.enable_grad():
        raw = [x.detach().clone().requires_grad_() for x in raw]
        output = model.combine(raw)
        slopes = torch.autograd.grad(risk(output).sum(), raw)
    return output.detach(), list(slopes)


def _weighted(output: Tensor, slope: Tensor) -> Tensor:
    """(b,) whose gradient with respect to the output is the slope."""
    return (output * slope).flatten(1).sum(dim=1)


def block_scores(
    method: AttentionMethod, trace: AttentionTrace, modality: str, patient: int
) -> Iterator[tuple[Block, Tensor]]:
    """The scores (n,) of the tokens of each block of a patient's streamed modality."""
    stream, reduce = trace.streams[modality], _REDUCTIONS[method](trace)
    walk = stream.gradients(patient) if method == "gradient" else stream.weights(patient)
    for block, weights in walk:  # (layers, [h], [m], n)
        yield block, reduce(modality, weights.unsqueeze(1), slice(patient, patient + 1))[0]


def _scores(
    method: AttentionMethod, trace: AttentionTrace, names: Iterable[str] | None = None
) -> dict[str, Tensor]:
    reduce = _REDUCTIONS[method](trace)
    weights = trace.gradients if method == "gradient" else trace
    scores = {}
    for name in trace.order if names is None else names:
        if name in trace.streams:
            found = joined(name, trace.streams[name].stream, partial(block_scores, method, trace, name))
            scores[name] = found.flatten(1)
        else:
            scores[name] = reduce(name, weights[name], slice(None))
    return scores


def mean_attention(trace: AttentionTrace) -> dict[str, Tensor]:
    """Attention averaged over layers, and over heads and latents if the trace kept them: where the model looked.

    Shape:
        returns: modality -> (b, n); each patient's real tokens sum to one; zeros for patients who lack the modality.

    Example:
        >>> trace = AttentionTrace({"slide": torch.tensor([[[0.25, 0.75]], [[0.75, 0.25]]])})
        >>> mean_attention(trace)
        {'slide': tensor([[0.5000, 0.5000]])}
    """
    return _scores("mean", trace)


def gradient_attention(trace: AttentionTrace) -> dict[str, Tensor]:
    """Attention times the gradient of the risk by it, summed over layers (Chefer et al. 2021, arXiv 2103.15679).

    Positive: looking there raised the risk. Unlike Chefer et al. negative parts are kept, for in survival both directions
    matter.

    Shape:
        returns: modality -> (b, n); zeros on masked tokens and for patients who lack the modality.

    Raises:
        ValueError: A trace made without `gradient_of`.
    """
    return _scores("gradient", trace)


def rollout(trace: AttentionTrace) -> dict[str, Tensor]:
    """Attention followed through the latents of all layers, residuals counted (Abnar and Zuidema 2020, arXiv 2005.00928).

    With R_j (m, n_j) what of each token of modality j is in each latent, 0 at first, every residual update keeps half:

        R_i <- R_i / 2 + [i = j] A_j / 2     where the latents read modality j with attention A_j
        R_i <- (I + B) R_i / 2               where they attend to each other with B

    and the mean over latents is what the head reads. A patient without modality j keeps R, as the model keeps the latents.

    Shape:
        returns: modality -> (b, n). Per patient they sum, over all modalities, to at most 1; the rest is the share of the
            latents' learned start. The sum over one modality's tokens is its share.

    Raises:
        ValueError: A trace that did not keep latents, or layers of different numbers of modalities.
    """
    return _scores("rollout", trace)


# Scores (b, n) from stacked weights (layers, b, [h], [m], n) of a modality, for these patients.
_Reduction = Callable[[str, Tensor, slice], Tensor]


def _of_mean(trace: AttentionTrace) -> _Reduction:
    return lambda _, weights, __: weights.mean(dim=(0, *range(2, weights.dim() - 1)))


def _of_gradients(trace: AttentionTrace) -> _Reduction:
    if not trace.gradients and len(trace):
        raise ValueError(
            "expected a trace with gradients, made by model.trace(inputs, gradient_of=...) with one number per patient"
        )

    def reduce(_: str, slopes: Tensor, __: slice) -> Tensor:
        kept = tuple(range(2, slopes.dim() - 1))  # heads and latents
        return (slopes.mean(dim=kept) if kept else slopes).sum(dim=0)

    return reduce


def _of_rollout(trace: AttentionTrace) -> _Reduction:
    """R is linear in every A_j: followed from the head backward, each latent of each layer has one factor."""
    if trace.keep not in ("latents", "both"):
        raise ValueError(
            f'rollout needs model.trace(inputs, keep="latents"), got a trace with keep={trace.keep!r}'
        )
    depths = {len(trace.streams[name] if name in trace.streams else trace[name]) for name in trace.order}
    if len(depths) > 1:
        raise ValueError(f"expected every modality in every layer, got {sorted(depths)} layers")
    depth = max(depths, default=0)
    factors: dict[str, list[Tensor]] = {name: [] for name in trace.order}
    share: Tensor | None = None  # (b, m) of each latent in what the head reads
    for layer in reversed(range(depth)):
        for name in reversed(trace.order):
            here = _present(trace, name, layer).unsqueeze(1)  # (b, 1)
            if share is None:
                latents = _num_latents(trace)
                share = here.new_full((len(here), latents), 1 / latents, dtype=_precision(trace))
            for among in _blocks(trace, name, layer, depth).flip(0):
                # The identity for patients without the modality.
                share = (share + _exact_einsum("bk,bkm->bm", share, among)) / 2
            factors[name].insert(0, torch.where(here, share / 2, 0))
            share = torch.where(here, share / 2, share)
    stacked = {name: torch.stack(layers) for name, layers in factors.items()}

    def reduce(name: str, weights: Tensor, patients: slice) -> Tensor:
        # Kept heads are averaged: which head read a token is lost in the output projection.
        by_latent = weights if trace.keep == "latents" else weights.mean(dim=2)
        return _exact_einsum("lbm,lbmn->bn", stacked[name][:, patients], by_latent)

    return reduce


def _exact_einsum(equation: str, shares: Tensor, weights: Tensor) -> Tensor:
    """`torch.einsum` in the precision of the shares; autocast would round it to 8 bits, and many patches to one rank."""
    with no_autocast(shares.device.type):
        return torch.einsum(equation, shares, weights.to(shares.dtype))


def _present(trace: AttentionTrace, name: str, layer: int) -> Tensor:
    """(b,) bool: who has the modality."""
    if name in trace.streams:
        return trace.streams[name].present
    return (trace[name][layer].flatten(1) > 0).any(dim=1)


def _num_latents(trace: AttentionTrace) -> int:
    found = [s.num_latents for s in trace.streams.values()] + [w.shape[-2] for w in trace.values()]
    return max(found)


def _precision(trace: AttentionTrace) -> torch.dtype:
    """That of the weights, at least float32."""
    found = next((weights.dtype for weights in (*trace.values(), *trace.latents.values())), torch.float32)
    return torch.promote_types(found, torch.float32)


_REDUCTIONS: dict[AttentionMethod, Callable[[AttentionTrace], _Reduction]] = {
    "mean": _of_mean,
    "rollout": _of_rollout,
    "gradient": _of_gradients,
}


def _blocks(trace: AttentionTrace, name: str, layer: int, depth: int) -> Tensor:
    """The self-attention (blocks, b, m, m) that followed this modality's update in this layer."""
    recorded = trace.latents.get(name)
    if recorded is None:
        return torch.empty(0)
    per_layer = len(recorded) // depth
    return recorded[layer * per_layer : (layer + 1) * per_layer]
