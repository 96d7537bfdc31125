"""Discrete-time survival: hazards per time bin from raw logits, and the likelihood of what was seen."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from healnet.survival._inputs import ArrayOrTensor, as_event, as_vector, reduce, widen

__all__ = ["discrete_nll", "hazard", "risk_score", "survival_function"]


def hazard(logits: Tensor) -> Tensor:
    """h(j) = P(event in bin j | none before) = sigmoid of the logit.

    Shape:
        logits: (b, k) raw model outputs.
        returns: (b, k)

    Example:
        >>> hazard(torch.tensor([[0.0, 0.0]]))
        tensor([[0.5000, 0.5000]])
    """
    return torch.sigmoid(widen(logits, "logits"))


def survival_function(logits: Tensor) -> Tensor:
    """S(j) = P(no event up to the end of bin j) = prod over i <= j of (1 - h(i)), computed in log space.

    Shape:
        logits: (b, k) raw model outputs.
        returns: (b, k), non-increasing along the bins.

    Example:
        >>> survival_function(torch.tensor([[0.0, 0.0]]))
        tensor([[0.5000, 0.2500]])
    """
    return F.logsigmoid(-widen(logits, "logits")).cumsum(dim=-1).exp()


def risk_score(logits: Tensor) -> Tensor:
    """One number per patient, larger = worse: minus the sum of S over the bins (MCAT's and PORPOISE's score).

    Up to its sign this is the expected number of bins survived, so it lies in [-k, 0].

    Shape:
        logits: (b, k) raw model outputs.
        returns: (b,)

    Example:
        >>> risk_score(torch.tensor([[0.0, 0.0]]))
        tensor([-0.7500])
    """
    return -survival_function(logits).sum(dim=-1)


def discrete_nll(
    logits: Tensor,
    y: ArrayOrTensor,
    event: ArrayOrTensor,
    alpha: float = 0.0,
    bin_weights: ArrayOrTensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Negative log-likelihood of discrete-time survival, from raw logits.

    With $h(j) = \sigma(\phi_j)$ and $S(j) = \prod_{i \le j} (1 - h(i))$, $S(-1) = 1$, a patient with an event
    in bin y contributes $-\log h(y) - \log S(y - 1)$, a censored one $-\log S(y)$, times $1 - \alpha$ (Brown
    1975; Gensheimer and Narasimhan 2019, PeerJ 7:e6257, eq. 3; Zadeh and Schmid 2020 for alpha, as in MCAT
    and PORPOISE). At alpha = 0 it equals pycox's `nll_logistic_hazard` and MCAT's `nll_loss`; nothing is
    clamped, so that gradients stay right at |logit| = 100.

    Args:
        logits: (b, k) raw model outputs; float16 and bfloat16 are computed in float32.
        y: (b,) the bin of each patient's time, 0-based, as `TimeBins.transform` gives it.
        event: (b,) bool, True = the event was observed.
        alpha: in [0, 1]; censored terms are weighted by 1 - alpha, so 0 is the likelihood and 1 ignores the
            censored.
        bin_weights: (k,) a weight per bin, divided by their mean here; a patient's term, event or censored,
            is multiplied by the weight of their bin.
        reduction: "mean" over patients, "sum", or "none".

    Shape:
        returns: a scalar, or (b,) for "none".

    Raises:
        ValueError: other shapes, bins outside 0..k-1, labels other than 0 and 1, alpha outside [0, 1].

    Example:
        >>> logits = torch.zeros(2, 3)
        >>> discrete_nll(logits, torch.tensor([0, 2]), torch.tensor([True, False]), reduction="none")
        tensor([0.6931, 2.0794])
    """
    logits = _check_logits(logits)
    y = _as_bins(y, logits)
    seen = as_event(event, logits)
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1], got {alpha}")
    log_survival = F.pad(F.logsigmoid(-logits).cumsum(dim=1), (1, 0))  # (b, k + 1): S(-1) = 1 in front
    before = _pick(log_survival, y)
    observed = before + _pick(F.logsigmoid(logits), y)
    censored = (1 - alpha) * _pick(log_survival, y + 1)
    terms = -torch.where(seen, observed, censored)
    if bin_weights is not None:
        terms = terms * _normalised(bin_weights, logits)[y]
    return reduce(terms, reduction)


def _check_logits(logits: Tensor) -> Tensor:
    if logits.dim() != 2:
        raise ValueError(f"logits must have shape (b, k), one per time bin, got {tuple(logits.shape)}")
    return widen(logits, "logits")


def _as_bins(y: ArrayOrTensor, logits: Tensor) -> Tensor:
    bins = as_vector(y, "y", logits)
    if bins.is_floating_point() or bins.dtype == torch.bool:
        raise ValueError(
            f"y must hold the integer bin of each patient (TimeBins.transform), got {bins.dtype}"
        )
    num_bins = logits.shape[-1]
    # Only where looking is free: on a GPU this would stall every step, and gather has its own assertion
    # there.
    if bins.device.type == "cpu" and bins.numel() and not 0 <= int(bins.min()) <= int(bins.max()) < num_bins:
        raise ValueError(
            f"y must lie in 0..{num_bins - 1} for logits of {num_bins} bins, "
            f"got values from {int(bins.min())} to {int(bins.max())}"
        )
    return bins.long()


def _pick(values: Tensor, index: Tensor) -> Tensor:
    return values.gather(1, index.unsqueeze(1)).squeeze(1)


def _normalised(weights: ArrayOrTensor, logits: Tensor) -> Tensor:
    weights = torch.as_tensor(weights, device=logits.device, dtype=logits.dtype)
    if weights.shape != logits.shape[-1:]:
        raise ValueError(f"bin_weights must have shape ({logits.shape[-1]},), got {tuple(weights.shape)}")
    return weights / weights.mean()
