"""Pairwise ranking loss: the patient with the earlier event should have the larger risk."""

from __future__ import annotations

import torch
from torch import Tensor

from healnet.survival._checks import (
    ArrayOrTensor,
    as_bins,
    as_event,
    as_vector,
    check_choice,
    check_logits,
    one_output,
    require,
)
from healnet.survival.losses._hazards import log_hazards

__all__ = ["ranking_loss"]


def ranking_loss(
    outputs: Tensor,
    time: ArrayOrTensor,
    event: ArrayOrTensor,
    y: ArrayOrTensor | None = None,
    sigma: float | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Compute a smooth form of 1 - C over all comparable pairs of a batch, in one of two ways.

    A pair (i, j) is comparable if i has the event and j was followed longer, or as long and censored, as in
    Harrell's C.

    - `outputs` (b,), raw risks r: $\text{sigmoid}(-(r_i - r_j) / \sigma)$, sigma = 1 (Luck et al. 2018,
      arXiv:1806.01984; MMP's ranking loss with phi = sigmoid, but for a constant).
    - `outputs` (b, k), raw discrete-time logits, with the bins `y`: $\exp(-(F_i(y_i) - F_j(y_i)) / \sigma)$,
      F = 1 - S, sigma = 0.1 (DeepHit; Lee et al. 2018, AAAI).

    Only the order is learned; add it to a likelihood. O(b^2) memory.

    Args:
        outputs: Raw model outputs.
        time: Follow-up times.
        event: Events, True = observed.
        y: Bins of the times, for (b, k) logits only.
        sigma: Scale of the differences, > 0.
        reduction: Reduction of the terms: "mean" over comparable pairs, or "sum"; zero, joined to the graph, where there
            are none.

    Shape:
        outputs: (b,), (b, 1), or (b, k) with `y`.
        time, event, y: (b,)
        returns: a scalar.

    Raises:
        ValueError: Other shapes, NaN times, labels other than 0 and 1, sigma <= 0, another reduction.

    Example:
        >>> risk = torch.tensor([1.0, 1.0, 3.0])
        >>> ranking_loss(risk, torch.tensor([1.0, 2.0, 3.0]), torch.tensor([True, False, False]))
        tensor(0.6904)
    """
    check_choice("reduction", reduction, ("mean", "sum"))
    if sigma is not None and not sigma > 0:
        raise ValueError(f"expected sigma > 0, got {sigma}")
    if y is None:
        risk = one_output(outputs, "outputs (without y)")
        cost = torch.sigmoid((risk.unsqueeze(0) - risk.unsqueeze(1)) / (sigma or 1.0))
    else:
        if outputs.dim() != 2:
            raise ValueError(f"expected outputs of shape (b, k) where y is given, got {tuple(outputs.shape)}")
        logits = check_logits(outputs)
        bins = as_bins(y, logits.shape[1], logits)
        survival = log_hazards(logits)[0].cumsum(dim=1).exp()
        at_own = survival[:, bins].T  # (b, b): S_j(y_i) in row i, column j
        cost = torch.exp((at_own.diagonal().unsqueeze(1) - at_own) / (sigma or 0.1))
    times, seen = as_vector(time, "time", cost), as_event(event, cost)
    times = require(times, ~torch.isnan(times), "time to be a number")
    later = times.unsqueeze(0) > times.unsqueeze(1)
    as_late = (times.unsqueeze(0) == times.unsqueeze(1)) & ~seen.unsqueeze(0)
    comparable = seen.unsqueeze(1) & (later | as_late)
    total = torch.where(comparable, cost, 0).sum()
    return total if reduction == "sum" else total / comparable.sum().clamp(min=1)
