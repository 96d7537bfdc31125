"""Discrete-time survival: hazards per time bin from raw logits, and the likelihood of what was seen."""

from __future__ import annotations

from typing import overload

import torch
from torch import Tensor
from torch.nn.functional import pad

from healnet.survival._checks import (
    ArrayOrTensor,
    as_bins,
    as_cause,
    as_event,
    as_tensor,
    check_inside,
    check_logits,
    require,
)
from healnet.survival.bins import TimeBins
from healnet.survival.curve import SurvivalCurve
from healnet.survival.losses._hazards import log_hazards
from healnet.survival.losses._reduction import reduce

__all__ = [
    "cumulative_incidence",
    "discrete_cross_entropy",
    "discrete_nll",
    "hazard",
    "risk_score",
    "survival_function",
]


def hazard(logits: Tensor) -> Tensor:
    """Return h(j) = P(event in bin j | none before): the sigmoid of the logit, or a softmax over competing causes.

    Shape:
        logits: (b, k), or (b, r, k) for r competing causes; raw model outputs.
        returns: same shape as logits; cause-specific hazards for competing causes.

    Raises:
        ValueError: Another number of axes.

    Example:
        >>> hazard(torch.tensor([[0.0, 0.0]]))
        tensor([[0.5000, 0.5000]])
    """
    logits = check_logits(logits)
    return torch.sigmoid(logits) if logits.dim() == 2 else log_hazards(logits)[1].exp()


@overload
def survival_function(logits: Tensor) -> Tensor: ...
@overload
def survival_function(logits: Tensor, bins: TimeBins, interpolation: str = "linear") -> SurvivalCurve: ...
def survival_function(
    logits: Tensor, bins: TimeBins | None = None, interpolation: str = "linear"
) -> Tensor | SurvivalCurve:
    """Return S(j) = P(no event up to the end of bin j), the product of 1 - h(i) over i <= j, computed in log space.

    Args:
        logits: Raw model outputs.
        bins: Time bins that the logits stand for; with them the answer is a `SurvivalCurve` in continuous time.
        interpolation: Interpolation of the curve, "linear" or "exponential"; see `SurvivalCurve`.

    Shape:
        logits: (b, k), or (b, r, k) for r competing causes, whose S is that of having had none of them.
        returns: (b, k), non-increasing along the bins; with `bins`, a curve of b patients.

    Raises:
        ValueError: Another number of axes, another number of bins.

    Example:
        >>> survival_function(torch.tensor([[0.0, 0.0]]))
        tensor([[0.5000, 0.2500]])
        >>> survival_function(torch.tensor([[0.0, 0.0]]), TimeBins([0, 12, 24])).at([6, 24])
        tensor([[0.7500, 0.2500]])
    """
    log_survival = log_hazards(check_logits(logits))[0].cumsum(dim=1)
    return log_survival.exp() if bins is None else SurvivalCurve.from_log(log_survival, bins, interpolation)


def risk_score(logits: Tensor) -> Tensor:
    """Return one number per patient, larger = worse: minus the sum of S over the bins (MCAT's and PORPOISE's score).

    Up to its sign it is the expected number of bins survived, so it lies in [-k, 0].

    Shape:
        logits: (b, k), or (b, r, k) for r competing causes; raw model outputs.
        returns: (b,)

    Raises:
        ValueError: Another number of axes.

    Example:
        >>> risk_score(torch.tensor([[0.0, 0.0]]))
        tensor([-0.7500])
    """
    return -survival_function(logits).sum(dim=1)


def cumulative_incidence(logits: Tensor) -> Tensor:
    """Return F_r(j) = P(event of cause r by the end of bin j) = sum over i <= j of h_r(i) S(i - 1).

    Over the causes it sums to 1 - S(j), which one minus a Kaplan-Meier estimate per cause does not.

    Shape:
        logits: (b, r, k) raw model outputs of r competing causes.
        returns: (b, r, k), non-decreasing along the bins.

    Raises:
        ValueError: Another number of axes.

    Example:
        >>> cumulative_incidence(torch.zeros(1, 2, 2))
        tensor([[[0.3333, 0.4444],
                 [0.3333, 0.4444]]])
    """
    if logits.dim() != 3:
        raise ValueError(
            f"expected logits of shape (b, r, k) for r competing causes, got {tuple(logits.shape)}"
        )
    none, causes = log_hazards(check_logits(logits))
    before = pad(none.cumsum(dim=1), (1, 0))[:, :-1]  # log S(j - 1)
    return (causes + before.unsqueeze(1)).exp().cumsum(dim=2)


def discrete_nll(
    logits: Tensor,
    y: ArrayOrTensor,
    event: ArrayOrTensor,
    alpha: float = 0.0,
    bin_weights: ArrayOrTensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Compute the negative log-likelihood of discrete-time survival from raw logits.

    With $h(j) = \sigma(\phi_j)$ and $S(j) = \prod_{i \le j} (1 - h(i))$, $S(-1) = 1$, a patient with an event
    in bin y contributes $-\log h(y) - \log S(y - 1)$, a censored one $-(1 - \alpha) \log S(y)$ (Brown 1975,
    Biometrics 31:863; Gensheimer and Narasimhan 2019, PeerJ 7:e6257; alpha: Zadeh and Schmid 2020, IEEE TPAMI
    43:3126, as in MCAT and PORPOISE). At alpha = 0 it is pycox's `nll_logistic_hazard` and MCAT's `nll_loss`.
    Nothing is clamped: the gradients stay right at |logit| = 100.

    For r competing causes the hazards are cause-specific, $h_r(j)$ by a softmax over causes and "no event",
    and an event of cause r contributes $-\log h_r(y) - \log S(y - 1)$ with S that of none of them (Tutz and
    Schmid 2016, ch. 8).

    Args:
        logits: Raw model outputs; float16 and bfloat16 are computed in float32.
        y: Bin of each patient's time, 0-based, as `TimeBins.transform` gives it.
        event: Events, True = observed; for competing causes integers, 0 = censored, 1..r = the cause.
        alpha: Discount of censored patients, in [0, 1]: their terms are multiplied by 1 - alpha, so that 0 is the
            likelihood and 1 ignores them.
        bin_weights: Weight of each bin, divided by their mean here; a patient's term, event or censored, is multiplied
            by the weight of their bin.
        reduction: Reduction of the terms: "mean" over patients, "sum", or "none".

    Shape:
        logits: (b, k), or (b, r, k).
        y, event: (b,)
        bin_weights: (k,)
        returns: a scalar, or (b,) for "none".

    Raises:
        ValueError: Other shapes, bins outside 0..k-1, labels other than those above, alpha outside [0, 1],
            weights that are negative or all zero.

    Example:
        >>> logits = torch.zeros(2, 3)
        >>> discrete_nll(logits, torch.tensor([0, 2]), torch.tensor([True, False]), reduction="none")
        tensor([0.6931, 2.0794])
    """
    logits = check_logits(logits)
    y = as_bins(y, logits.shape[-1], logits)
    cause = as_event(event, logits).long() if logits.dim() == 2 else as_cause(event, logits.shape[1], logits)
    check_inside("alpha", alpha, "[0, 1]")
    none, causes = log_hazards(logits)
    log_survival = pad(none.cumsum(dim=1), (1, 0))  # (b, k + 1), S(-1) = 1 in front
    own = causes[torch.arange(len(y), device=y.device), (cause - 1).clamp(min=0)]  # (b, k)
    observed = _pick(log_survival, y) + _pick(own, y)
    censored = (1 - alpha) * _pick(log_survival, y + 1)
    terms = -torch.where(cause > 0, observed, censored)
    if bin_weights is not None:
        terms = terms * _mean_one(bin_weights, logits)[y]
    return reduce(terms, reduction)


def discrete_cross_entropy(
    logits: Tensor, y: ArrayOrTensor, event: ArrayOrTensor, alpha: float = 0.0, reduction: str = "mean"
) -> Tensor:
    r"""Compute the cross-entropy form of discrete-time survival (MCAT's `ce_surv`) from raw logits.

    The label of each patient is whether the event came by the end of their bin y: an event contributes
    $-\log(1 - S(y))$, a censored patient $-\log S(y)$ (Zadeh and Schmid 2020, IEEE TPAMI 43:3126). MCAT mixes
    it with the likelihood of the events, $(1 - \alpha) \text{ce} + \alpha \, [\text{event}] \, \text{nll}$,
    alpha = 0.15 in its scripts. It does not say *when* within the first y bins an event came; `discrete_nll`
    does.

    $1 - S(y)$ is summed in log space as $\sum_{j \le y} h(j) S(j - 1)$, so that value and gradient are finite
    for all logits, where `log(1 - S)` gives inf and NaN.

    Args:
        logits: Raw model outputs; float16 and bfloat16 are computed in float32.
        y: Bin of each patient's time, 0-based.
        event: Events, True = observed.
        alpha: Share of the events' likelihood, in [0, 1].
        reduction: Reduction of the terms: "mean" over patients, "sum", or "none".

    Shape:
        logits: (b, k)
        y, event: (b,)
        returns: a scalar, or (b,) for "none".

    Raises:
        ValueError: Other shapes, bins outside 0..k-1, labels other than 0 and 1, alpha outside [0, 1].

    Example:
        >>> logits = torch.zeros(2, 3)
        >>> y, event = torch.tensor([1, 1]), torch.tensor([True, False])
        >>> discrete_cross_entropy(logits, y, event, reduction="none")
        tensor([0.2877, 1.3863])
    """
    if logits.dim() != 2:
        raise ValueError(f"expected logits of shape (b, k), one per time bin, got {tuple(logits.shape)}")
    logits = check_logits(logits)
    y = as_bins(y, logits.shape[1], logits)
    seen = as_event(event, logits)
    check_inside("alpha", alpha, "[0, 1]")
    none, causes = log_hazards(logits)
    log_survival = pad(none.cumsum(dim=1), (1, 0))
    log_density = causes[:, 0] + log_survival[:, :-1]  # log P(event in bin j)
    later = torch.arange(logits.shape[1], device=y.device) > y.unsqueeze(1)
    log_event_by = log_density.masked_fill(later, -torch.inf).logsumexp(dim=1)
    answer = torch.where(seen, log_event_by, _pick(log_survival, y + 1))
    likelihood = torch.where(seen, _pick(log_density, y), 0)
    return reduce(-(1 - alpha) * answer - alpha * likelihood, reduction)


def _pick(values: Tensor, index: Tensor) -> Tensor:
    return values.gather(1, index.unsqueeze(1)).squeeze(1)


def _mean_one(weights: ArrayOrTensor, logits: Tensor) -> Tensor:
    weights = as_tensor(weights).to(logits)
    if weights.shape != logits.shape[-1:]:
        raise ValueError(f"expected bin_weights of shape ({logits.shape[-1]},), got {tuple(weights.shape)}")
    weights = require(weights, weights >= 0, "bin_weights to be >= 0")
    weights = require(weights, (weights > 0).any().expand(len(weights)), "bin_weights of which one is > 0")
    return weights / weights.mean()
