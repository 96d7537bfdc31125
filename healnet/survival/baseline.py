"""Survival curves from a Cox model's log hazards: `BreslowBaseline`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from healnet.survival._checks import ArrayOrTensor, as_array, as_tensor, check_times_at, one_output
from healnet.survival._order import check_order
from healnet.survival.target import SurvivalTarget

__all__ = ["BreslowBaseline"]

_WIDEST = 600.0  # exp of it, times a million patients, is finite in float64, and so is its inverse


class BreslowBaseline:
    """The baseline hazard that Cox's likelihood leaves open, by Breslow's estimator: `BreslowBaseline.fit`.

    At each event time t the cumulative hazard grows by d(t) / Σ_{j: t_j >= t} exp(η_j - c), with d(t) events, η the
    log hazards of those still at risk (Breslow 1972, J R Stat Soc B 34:216), and c the mean η of those it was fitted on.
    A patient of log hazard η then has

        S(t | η) = exp(-H0(t) exp(η - c)),

    a step function, right-continuous, constant after the last event time, beyond which nothing is known. A number added
    to all log hazards, which Cox's loss cannot see, changes nothing. Tied events share one denominator, also where
    the model was fitted with Efron's ties (as in lifelines and scikit-survival; R's `survfit` takes Efron's there).
    With strata, fit one baseline per stratum.

    The sums are the definition to rounding at any size of the log hazards. scikit-survival's `BreslowEstimator` subtracts
    those who have left from one total instead, which swallows the small hazards of later times: where log hazards are
    some 35 apart its curves are wrong, infinite or NaN.

    Args:
        times: Distinct event times, (k,), ascending.
        cumulative_hazard: Cumulative hazard H0 at these times, (k,).
        center: Mean log hazard c of the patients it was fitted on.

    Raises:
        ValueError: Lengths that differ or are 0, times that do not ascend from >= 0, a hazard that falls or starts
            below 0, a number that is not finite.

    Example:
        >>> seen = SurvivalTarget([1, 2, 3, 4], [True, True, False, True])
        >>> baseline = BreslowBaseline.fit(torch.zeros(4), seen)
        >>> baseline.cumulative_hazard.round(3).tolist()  # 1/4, + 1/3, + 1/1
        [0.25, 0.583, 1.583]
        >>> baseline.survival(torch.tensor([0.0, 1.0]), [0.5, 1, 3])
        tensor([[1.0000, 0.7788, 0.5580],
                [1.0000, 0.5068, 0.2048]])
        >>> baseline.median(torch.tensor([0.0, 1.0, -2.0]))
        tensor([4., 2., inf])
    """

    def __init__(self, times: ArrayLike, cumulative_hazard: ArrayLike, center: float = 0.0) -> None:
        self.times: NDArray[np.float64] = np.array(as_array(times), dtype=np.float64)
        self.cumulative_hazard: NDArray[np.float64] = np.array(as_array(cumulative_hazard), dtype=np.float64)
        self.center = float(center)
        if self.times.ndim != 1 or not len(self.times) or self.times.shape != self.cumulative_hazard.shape:
            raise ValueError(
                "expected times and cumulative_hazard of one shape (k,), k > 0, "
                f"got {self.times.shape} and {self.cumulative_hazard.shape}"
            )
        if not (0 <= self.times[0] and self.times[-1] < np.inf and (np.diff(self.times) > 0).all()):
            raise ValueError(f"expected times to be finite, >= 0 and ascending, got {self.times}")
        steps = np.diff(self.cumulative_hazard, prepend=0.0)
        if not ((steps >= 0).all() and self.cumulative_hazard[-1] < np.inf):
            raise ValueError(
                f"expected cumulative_hazard to be finite, >= 0 and not falling, got {self.cumulative_hazard}"
            )
        if not np.isfinite(self.center):
            raise ValueError(f"expected center to be finite, got {self.center}")

    def __repr__(self) -> str:
        return f"BreslowBaseline({len(self.times)} event times up to {self.times[-1]:g})"

    @classmethod
    def fit(cls, log_hazard: ArrayOrTensor, target: SurvivalTarget) -> BreslowBaseline:
        """Fit the baseline to training patients, from the model's raw outputs in `eval()`.

        Shape:
            log_hazard: (n,) or (n, 1)

        Raises:
            ValueError: Another shape, lengths that differ, patients in another order, a log hazard that is not finite or
                further than 600 from their mean, no event at all.
        """
        check_order(log_hazard, target, "log_hazard")
        eta = _checked(log_hazard).cpu().double().numpy()
        if len(eta) != len(target):
            raise ValueError(f"expected a log hazard for each of {len(target)} patients, got {len(eta)}")
        if not target.event.any():
            raise ValueError("expected at least one observed event, got none")
        center = float(eta.mean())
        furthest = float(np.abs(eta - center).max())
        if furthest > _WIDEST:
            raise ValueError(
                f"expected log hazards within {_WIDEST:g} of their mean, got one {furthest:g} away: "
                "has the model diverged?"
            )
        # Sums over those at risk run from the last time to the first, in logarithms, so that no large one swallows
        # the small ones of later times.
        order = np.argsort(target.time, kind="stable")
        log_sums = np.logaddexp.accumulate((eta - center)[order][::-1])[::-1]
        times, deaths = np.unique(target.time[target.event], return_counts=True)
        first_at_risk = np.searchsorted(target.time[order], times, side="left")
        return cls(times, np.cumsum(deaths * np.exp(-log_sums[first_at_risk])), center)

    @property
    def last_time(self) -> float:
        """The last event time, beyond which nothing is known."""
        return float(self.times[-1])

    def survival(self, log_hazard: ArrayOrTensor, times: ArrayOrTensor) -> Tensor:
        """Predict S of any patients at any times, without a graph.

        Float32 times are compared with event times rounded to float32, so that a time that was an event time stays
        one.

        Shape:
            log_hazard: (b,) or (b, 1)
            times: (t,) the same for all patients, or (b, t) each patient's own.
            returns: (b, t), on the log hazards' device; float32 for half precision, else of their type.

        Raises:
            ValueError: Another shape, a log hazard that is not finite, a time that is negative or NaN.
        """
        eta = _checked(log_hazard)
        points = check_times_at(as_array(times), len(eta))
        knots = self.times.astype(np.float32) if points.dtype == np.float32 else self.times
        so_far = np.append(0.0, self.cumulative_hazard)[np.searchsorted(knots, points, side="right")]
        return torch.from_numpy(np.exp(-self._relative(eta)[:, None] * so_far)).to(eta)

    def median(self, log_hazard: ArrayOrTensor) -> Tensor:
        """Return the median survival time: the first event time at which S <= 1/2; inf where the curve ends above it.

        Shape:
            log_hazard: (b,) or (b, 1)
            returns: (b,), device and type as of `survival`.

        Raises:
            ValueError: Another shape, a log hazard that is not finite.
        """
        eta = _checked(log_hazard)
        reached = np.exp(-np.outer(self._relative(eta), self.cumulative_hazard)) <= 0.5
        medians = np.where(reached.any(axis=1), self.times[reached.argmax(axis=1)], np.inf)
        return torch.from_numpy(medians).to(eta)

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and floats, for JSON or a checkpoint."""
        return {
            "times": self.times.tolist(),
            "cumulative_hazard": self.cumulative_hazard.tolist(),
            "center": self.center,
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> BreslowBaseline:
        """Return the baseline that `to_dict` wrote."""
        return cls(**state)

    def _relative(self, eta: Tensor) -> NDArray[np.float64]:
        # exp(700) is finite in float64.
        return np.exp(np.clip(eta.cpu().double().numpy() - self.center, -700, 700))


def _checked(log_hazard: ArrayOrTensor) -> Tensor:
    eta = one_output(as_tensor(log_hazard), "log_hazard").detach()
    finite = torch.isfinite(eta)
    if not bool(finite.all()):
        raise ValueError(f"expected log_hazard to be finite, got {eta[~finite][0].item()}")
    return eta
