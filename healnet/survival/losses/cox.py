"""Cox's partial likelihood from raw log hazards, exact under ties, in O(n log n)."""

from __future__ import annotations

import torch
from torch import Tensor

from healnet._warnings import warn
from healnet.survival._checks import (
    ArrayOrTensor,
    as_event,
    as_strata,
    as_vector,
    check_choice,
    one_output,
    require,
)
from healnet.survival.losses._partial_likelihood import partial_likelihood_terms
from healnet.survival.losses._reduction import exact, reduce

__all__ = ["cox_nll"]


def cox_nll(
    log_hazard: Tensor,
    time: ArrayOrTensor,
    event: ArrayOrTensor,
    ties: str = "efron",
    strata: ArrayOrTensor | None = None,
    weights: ArrayOrTensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Compute the negative log partial likelihood of Cox's proportional-hazards model (Cox 1972).

    With log hazards $\eta$, D(t) the d events at time t, R(t) all patients with a time >= t (censored at t
    included) and A(.) the sum of $w \exp \eta$ over a set, an event i at t contributes $w_i$ times

    - "breslow": $\log A(R) - \eta_i$ (Breslow 1974);
    - "efron": $\frac{1}{d} \sum_{l=0}^{d-1} \log(A(R) - \frac{l}{d} A(D)) - \eta_i$ (Efron 1977); with
      weights, as in R's survival and lifelines.

    Computed in float64 in log space: $A(R) - \frac{l}{d} A(D)$ is never a difference but the sum of the
    others at risk and (1 - l/d) A(D), so it holds at any |log hazard|, and adding a constant to all log
    hazards changes nothing. The order of the rows does not matter. Time O(n log n), no loop over patients or
    events. Works within `torch.compile(fullgraph=True)`.

    Args:
        log_hazard: Raw model outputs.
        time: Follow-up times.
        event: Events, True = observed.
        ties: Treatment of ties, "efron" or "breslow".
        strata: Numbers of strata; patients are at risk together only within a stratum.
        weights: Weights of the patients, > 0.
        reduction: Reduction of the terms: "mean" per event (per unit of event weight), "sum", or "none", the term of
            each event in its row and zero in the rows of censored patients.

    Shape:
        log_hazard: (b,) or (b, 1)
        time, event, strata, weights: (b,) or (b, 1)
        returns: a scalar, or (b,) for "none"; float32 for half precision, else of log_hazard's type. Without
            events it is zero, joined to the graph.

    Raises:
        RuntimeError: Backward with create_graph=True; there is no second derivative.
        ValueError: Time or event None, other shapes, times that are negative or not finite, NaN strata, labels other than 0
            and 1, weights that are not positive, another name of ties or reduction.

    Warns:
        UserWarning: No event has another patient at risk, as in a batch of one: there is nothing to learn from it. Not
            within `torch.compile`.

    Example:
        >>> log_hazard = torch.tensor([1.0, 0.5, -0.3])
        >>> cox_nll(log_hazard, torch.tensor([1, 1, 2]), torch.tensor([False, True, True]), reduction="sum")
        tensor(1.1308)
    """
    check_choice("ties", ties, ("efron", "breslow"))
    eta = one_output(log_hazard, "log_hazard")
    times, seen = as_vector(time, "time", eta), as_event(event, eta)
    times = require(times, torch.isfinite(times) & (times >= 0), "time to be finite and >= 0")
    stratum = None if strata is None else as_strata(strata, eta)
    if len(eta) and not torch.compiler.is_compiling() and not _any_pair(times, seen, stratum):
        warn(
            f"Cox's loss of this batch is constant: none of its {int(seen.sum())} events has another of its {len(eta)} "
            f"patients at risk{'' if strata is None else ' in its stratum'}; take larger batches, best the whole cohort, "
            "and healnet.survival.balanced_event_sampler for an event in each"
        )
    # A running sum over a million patients outgrows float32: log A would grow by less than its last place.
    precise = exact(eta)
    weight = torch.ones_like(precise)
    if weights is not None:
        weight = as_vector(weights, "weights", eta).to(precise.dtype)
        right = (weight > 0) & torch.isfinite(weight)
        weight = require(weight, right, "finite weights > 0 (leave a patient out instead of weighing them 0)")
    terms = partial_likelihood_terms(precise, times, seen, ties == "efron", stratum, weight)
    # Without events the sum is a zero that still depends on the log hazards, so backward gives zeros.
    return reduce(terms, reduction, (weight * seen).sum()).to(eta.dtype)


def _any_pair(time: Tensor, event: Tensor, strata: Tensor | None) -> bool:
    """Whether any event has another patient at risk, as the first event of its stratum has if one has."""
    group = torch.zeros_like(time, dtype=torch.long)
    if strata is not None:
        group = torch.unique(strata, return_inverse=True)[1]
    latest = time.double() if time.device.type != "mps" else time.float()
    first = latest.new_full((len(time),), torch.inf).scatter_reduce(0, group[event], latest[event], "amin")
    at_risk = torch.bincount(group[latest >= first[group]], minlength=1)
    return bool((at_risk > 1).any())
