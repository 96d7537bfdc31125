"""Scores per token from an `AttentionTrace`, and what every kind of score here can and cannot tell.

======================== ================================================ ==============================================
score                    tells                                            does not tell
======================== ================================================ ==============================================
`mean_attention`         where the model looked                           whether it mattered, or in which direction
`rollout`                the same through all layers and latents, and     the same; it takes half of every update for the
                         each modality's share                            old state, whatever the model really kept
`gradient_attention`     whether looking there raised or lowered the      what the token's own numbers did
                         risk, to first order
`gradient_x_input`       direction and size for every raw number, behind  anything far from here: 0 where the model is
                         any encoder                                      saturated
`integrated_gradients`   the same along a line from a baseline; sums to   anything without a baseline: another one gives
                         risk - risk(baseline)                            other scores
`occlude`                exactly how the risk changes without a block     what others repeat: of three patches that say
                                                                          the same, losing one changes little
`activation_pattern`     which features go along with the answer, also    whether the model reads the feature at all
                         where correlated features share the credit
`shapley_modalities`     what each modality adds, fairly over all orders  what happens inside a modality
======================== ================================================ ==============================================

Attention is not by itself an explanation: a token that is looked at need not change the answer, and different attention can
give the same answer (Jain and Wallace 2019, arXiv 1902.10186). `faithfulness` says which score to trust on your model. With
`OmicEncoder(tokens=k)` or "vector" a token is a mixture of all genes, and attention cannot rank them; the others can.

Planted truth: simulated cohorts in which a known 5% of the patches, or of the genes, carry the risk
(`tests/explain/test_planted.py`). AUROC with which the size of each score finds them in new patients, mean of three models;
patches within each patient, genes by their mean over patients:

======================== ======= ==================== =======================
score                    patches genes, a token each  genes, 4 learned tokens
======================== ======= ==================== =======================
`mean_attention`           0.980                0.999                       -
`rollout`                  0.981                0.999                       -
`gradient_attention`       0.894                1.000                       -
`gradient_x_input`         0.858                1.000                   1.000
`integrated_gradients`     0.889                1.000                   1.000
`occlude`                  0.863                1.000                   1.000
`activation_pattern`           -                1.000                   1.000
======================== ======= ==================== =======================

On the patches attention does best because they bear a mark, which is how such a model finds them; the scores that weigh an
effect rank the patches of an average patient low, for they neither raise nor lower the risk.

Real genes are correlated, and a model may read any of those that say the same. In mini-ACC, FOXM1 and CDK1 alone predict
survival with C = 0.82 and 0.84. Their ranks among its 198 RNA genes, over five folds of held-out patients
(`examples/explain_mini_acc.py`, 20 models, C = 0.86): `activation_pattern` 7 and 4; `rollout` 9 and 28; `occlude` 34 and 50;
`integrated_gradients` 40 and 33; `gradient_x_input` 41 and 66; `mean_attention` 53 and 44; `gradient_attention` 116 and 118
(the attention ones with a token for each gene).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from healnet.explain._model import Risk, checked, default_risk, evaluating
from healnet.fusion import AttentionTrace, HEALNet

__all__ = ["attention_scores", "gradient_attention", "mean_attention", "rollout"]

AttentionMethod = Literal["mean", "rollout", "gradient"]


def attention_scores(
    model: HEALNet,
    inputs: Mapping[str, Any],
    method: AttentionMethod = "gradient",
    risk: Risk = default_risk,
) -> dict[str, Tensor]:
    """One score per token of every modality, in one pass, in evaluation mode.

    Args:
        model: the model.
        inputs: as for `model.forward`.
        method: "mean" (`mean_attention`), "rollout" (`rollout`) or "gradient" (`gradient_attention`).
        risk: one number per patient from the output; for "gradient".

    Shape:
        returns: modality -> (b, n); 0 on masked tokens.

    Raises:
        ValueError: another method, or a risk that is not one number per patient.

    Example:
        >>> from healnet.encoders import OmicEncoder
        >>> model = HEALNet({"rna": OmicEncoder(5)})
        >>> attention_scores(model, {"rna": torch.zeros(2, 5)}, "mean")["rna"].sum(dim=1).round(decimals=3)
        tensor([1., 1.])
    """
    if method not in ("mean", "rollout", "gradient"):
        raise ValueError(f"expected method 'mean', 'rollout' or 'gradient', got {method!r}")
    with evaluating(model):
        if method == "gradient":
            _, trace = model.trace(inputs, gradient_of=lambda output: checked(risk(output)))
        else:
            with torch.no_grad():
                _, trace = model.trace(inputs, keep="latents" if method == "rollout" else "none")
    if method == "rollout":
        return rollout(trace)
    reduce: Callable[[AttentionTrace, str], Tensor] = (
        mean_attention if method == "mean" else gradient_attention
    )
    return {name: reduce(trace, name) for name in trace}


def mean_attention(trace: AttentionTrace, modality: str) -> Tensor:
    """Attention averaged over layers, and over heads and latents if the trace kept them: where the model looked.

    Shape:
        returns: (b, n); sums to one over each patient's real tokens, zeros for who lacks the modality.

    Raises:
        KeyError: a modality that the trace does not have.

    Example:
        >>> trace = AttentionTrace({"slide": torch.tensor([[[0.25, 0.75]], [[0.75, 0.25]]])})
        >>> mean_attention(trace, "slide")
        tensor([[0.5000, 0.5000]])
    """
    weights = trace[modality]
    return weights.mean(dim=(0, *range(2, weights.dim() - 1)))


def gradient_attention(trace: AttentionTrace, modality: str) -> Tensor:
    """Attention times the gradient of the risk by it, summed over layers (Chefer et al. 2021, arXiv 2103.15679).

    Positive: looking there raised the risk. Unlike Chefer et al. negative parts are kept, for in survival both directions
    matter; take the absolute value to rank.

    Shape:
        returns: (b, n); zeros on masked tokens and for who lacks the modality.

    Raises:
        KeyError: a modality that the trace does not have.
        ValueError: a trace made without `gradient_of`.
    """
    weights = trace[modality]
    if modality not in trace.gradients:
        raise ValueError(
            "this trace has no gradients: make it by model.trace(inputs, gradient_of=...), with one number per patient"
        )
    slopes = trace.gradients[modality]
    kept = tuple(range(2, weights.dim() - 1))
    return (slopes.mean(dim=kept) if kept else slopes).sum(dim=0)


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
