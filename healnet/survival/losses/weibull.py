"""Weibull survival times from two outputs per patient, whose likelihood needs no bins and no risk sets."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from healnet.survival._checks import (
    ArrayOrTensor,
    as_event,
    as_tensor,
    as_vector,
    check_times_at,
    require,
    widen,
)
from healnet.survival.losses._reduction import exact, reduce

__all__ = ["weibull_nll", "weibull_parameters", "weibull_survival"]

# A cumulative hazard of e^50 means a survival of exp(-5e21): no model near its optimum has one. From there on
# exp is continued by its tangent, so that a large first step has a finite loss in float32 and a gradient that
# leads back.
_TANGENT_FROM = 50.0


def weibull_parameters(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scale lambda = exp(first output) and the shape rho = softplus(second output), both > 0.

    Softplus, not exp, so that an output of 100 is a shape of 100 and not of 3e43.

    Shape:
        outputs: (b, 2) raw model outputs.
        returns: (b,) and (b,)

    Raises:
        ValueError: Another shape, not floating point.
    """
    outputs = _checked(outputs)
    return outputs[:, 0].exp(), F.softplus(outputs[:, 1])


def weibull_survival(outputs: Tensor, times: ArrayOrTensor) -> Tensor:
    """Return S(t) = exp(-(t / lambda)^rho).

    Shape:
        outputs: (b, 2) raw model outputs.
        times: (t,) the same for all patients, or (b, t) each patient's own; >= 0.
        returns: (b, t)

    Raises:
        ValueError: Other shapes, not floating point, a time that is negative or NaN.

    Example:
        >>> weibull_survival(torch.tensor([[0.0, 0.54132]]), [0.0, 1.0, 2.0])  # scale 1, shape 1
        tensor([[1.0000, 0.3679, 0.1353]])
    """
    outputs = _checked(outputs)
    points = check_times_at(as_tensor(times).to(outputs), len(outputs))
    at_start = points == 0
    z = F.softplus(outputs[:, 1:]) * (torch.where(at_start, 1, points).log() - outputs[:, :1])
    # From the tangent on S is 0 to every digit, and the clamp keeps 0 * inf out of its gradient.
    return torch.where(at_start, 1, torch.exp(-z.clamp(max=_TANGENT_FROM).exp()))


def weibull_nll(
    outputs: Tensor, time: ArrayOrTensor, event: ArrayOrTensor, reduction: str = "mean"
) -> Tensor:
    r"""Compute the negative log-likelihood of Weibull survival times under right censoring, from two raw outputs.

    With the scale $\lambda = \exp(o_1)$, the shape $\rho = \text{softplus}(o_2)$ and $z = \rho (\log t -
    o_1)$, the cumulative hazard is $e^z$ and a patient contributes $e^z - [\text{event}] (\log \rho + z -
    \log t)$ (Kalbfleisch and Prentice 2002, sec. 2.2.2); the accelerated-failure-time likelihood that
    lifelines' `WeibullAFTFitter` fits.

    Finite for all outputs: computed in float64, and exp continued by its tangent where z > 50.

    Args:
        outputs: Raw model outputs, log scale and shape before softplus. Give times in a unit that makes them
            of order one (years rather than days), so that outputs near zero are a sensible start.
        time: Follow-up times; > 0 for events.
        event: Events, True = observed.
        reduction: Reduction of the terms: "mean" over patients, "sum", or "none".

    Shape:
        outputs: (b, 2)
        time, event: (b,)
        returns: a scalar, or (b,) for "none".

    Raises:
        ValueError: Other shapes, labels other than 0 and 1, a negative or NaN time, an event at time 0, whose
            likelihood is unbounded.

    Example:
        >>> outputs = torch.tensor([[0.0, 0.54132], [0.0, 0.54132]])
        >>> weibull_nll(outputs, torch.tensor([2.0, 3.0]), torch.tensor([True, False]), reduction="none")
        tensor([2.0000, 3.0000])
    """
    raw = _checked(outputs)
    seen = as_event(event, raw)
    times = exact(as_vector(time, "time", raw))
    times = require(times, times >= 0, "time to be >= 0")
    times = require(times, ~seen | (times > 0), "time > 0 for events, whose likelihood is unbounded at 0")
    precise = exact(raw)
    shape, log_shape = F.softplus(precise[:, 1]), _log_softplus(precise[:, 1])
    at_start = times == 0  # censored at 0: nothing was seen, the term is zero
    log_time = torch.where(at_start, 1, times).log()
    z = shape * (log_time - precise[:, 0])
    small = z.clamp(max=_TANGENT_FROM)
    cumulative_hazard = small.exp() * (1 + z - small)
    terms = cumulative_hazard - torch.where(seen, log_shape + z - log_time, 0)
    return reduce(torch.where(at_start, 0, terms), reduction).to(raw.dtype)


def _log_softplus(x: Tensor) -> Tensor:
    """The logarithm of softplus; below -40 it is x to every digit, and in the end softplus itself is 0."""
    small = x < -40
    return torch.where(small, x, F.softplus(torch.where(small, 0, x)).log())


def _checked(outputs: Tensor) -> Tensor:
    if outputs.dim() != 2 or outputs.shape[1] != 2:
        raise ValueError(
            f"expected outputs of shape (b, 2), log scale and raw shape, got {tuple(outputs.shape)}"
        )
    return widen(outputs, "outputs")
