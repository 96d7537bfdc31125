"""Scores per token from attention: where the model looked, through all layers, and in which direction it mattered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from healnet._evaluation import evaluating
from healnet.explain._checks import modality_names
from healnet.explain.risk import Risk, resolve_risk
from healnet.fusion import AttentionTrace, HEALNet

__all__ = ["AttentionMethod", "attention_scores", "gradient_attention", "mean_attention", "rollout"]

AttentionMethod = Literal["mean", "rollout", "gradient"]


def attention_scores(
    model: HEALNet,
    inputs: Mapping[str, Any],
    *,
    modalities: Iterable[str] | None = None,
    risk: Risk | None = None,
    method: AttentionMethod = "gradient",
) -> dict[str, Tensor]:
    """One score per token of every modality, in one pass, in evaluation mode.

    Args:
        model: HEALNet to trace.
        inputs: inputs of `model.forward`.
        modalities: names to score; all that are there by default.
        risk: function from the output to one number per patient, for "gradient"; by default as `model.output` says.
        method: "mean" (`mean_attention`), "rollout" (`rollout`) or "gradient" (`gradient_attention`).

    Shape:
        returns: modality -> (b, n); 0 on masked tokens.

    Raises:
        ValueError: another method; an unknown modality; for "gradient", an output that is
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
        if method == "gradient":
            _, trace = model.trace(inputs, gradient_of=resolve_risk(model, inputs, risk))
        else:
            with torch.no_grad():
                _, trace = model.trace(inputs, keep="latents" if method == "rollout" else "none")
    scores = {"mean": mean_attention, "rollout": rollout, "gradient": gradient_attention}[method](trace)
    return {name: scores[name] for name in names}


def mean_attention(trace: AttentionTrace) -> dict[str, Tensor]:
    """Attention averaged over layers, and over heads and latents if the trace kept them: where the model looked.

    Shape:
        returns: modality -> (b, n); each patient's real tokens sum to one; zeros for patients who lack the modality.

    Example:
        >>> trace = AttentionTrace({"slide": torch.tensor([[[0.25, 0.75]], [[0.75, 0.25]]])})
        >>> mean_attention(trace)
        {'slide': tensor([[0.5000, 0.5000]])}
    """
    return {name: weights.mean(dim=(0, *range(2, weights.dim() - 1))) for name, weights in trace.items()}


def gradient_attention(trace: AttentionTrace) -> dict[str, Tensor]:
    """Attention times the gradient of the risk by it, summed over layers (Chefer et al. 2021, arXiv 2103.15679).

    Positive: looking there raised the risk. Unlike Chefer et al. negative parts are kept, for in survival both directions
    matter.

    Shape:
        returns: modality -> (b, n); zeros on masked tokens and for patients who lack the modality.

    Raises:
        ValueError: a trace made without `gradient_of`.
    """
    if not trace.gradients and len(trace):
        raise ValueError(
            "expected a trace with gradients, made by model.trace(inputs, gradient_of=...) with one number per patient"
        )
    # Means over the kept axes, heads and latents.
    return {
        name: slopes.mean(dim=tuple(range(2, slopes.dim() - 1))).sum(dim=0)
        if slopes.dim() > 3
        else slopes.sum(dim=0)
        for name, slopes in trace.gradients.items()
    }


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
        ValueError: a trace that did not keep latents, or layers of different numbers of modalities.
    """
    if trace.keep not in ("latents", "both"):
        raise ValueError(
            f'rollout needs model.trace(inputs, keep="latents"), got a trace with keep={trace.keep!r}'
        )
    # Kept heads are averaged: which head read a token is lost in the output projection.
    weights = {name: w if trace.keep == "latents" else w.mean(dim=2) for name, w in trace.items()}
    depths = {len(w) for w in weights.values()}
    if len(depths) > 1:
        raise ValueError(f"expected every modality in every layer, got {sorted(depths)} layers")
    held = {name: torch.zeros_like(w[0]) for name, w in weights.items()}
    for layer in range(max(depths, default=0)):
        for name, attention in weights.items():
            read = attention[layer]
            here = (read.sum(dim=2) > 0).any(dim=1)[:, None, None]
            for other in held:
                updated = held[other] / 2 + (read / 2 if other == name else 0)
                held[other] = torch.where(here, updated, held[other])
            for among in _blocks(trace, name, layer, len(attention)):
                # The identity for patients without the modality, who so keep what they hold.
                held = {other: (r + among.to(r.dtype) @ r) / 2 for other, r in held.items()}
    return {name: r.mean(dim=1) for name, r in held.items()}


def _blocks(trace: AttentionTrace, name: str, layer: int, depth: int) -> Tensor:
    """The self-attention (blocks, b, m, m) that followed this modality's update in this layer."""
    recorded = trace.latents.get(name)
    if recorded is None:
        return torch.empty(0)
    per_layer = len(recorded) // depth
    return recorded[layer * per_layer : (layer + 1) * per_layer]
