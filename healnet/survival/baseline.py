"""From a Cox model's log hazards to survival curves: `BreslowBaseline`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from healnet.survival._inputs import ArrayOrTensor, as_tensor, outputs_1d
from healnet.survival.target import SurvivalTarget

__all__ = ["BreslowBaseline"]


class BreslowBaseline:
    """The baseline hazard that Cox's likelihood leaves open, by Breslow's estimator: `BreslowBaseline.fit`.

    At each event time t the cumulative hazard grows by d(t) / Σ_{j: t_j >= t} exp(η_j - c), with d(t) events, η the
    log hazards of those still at risk (Breslow 1972, J R Stat Soc B 34:216), and c the mean η of those it was fitted on.
    A patient of log hazard η then has

        S(t | η) = exp(-H0(t) exp(η - c)),

    a step function, right-continuous, constant after the last event time, beyond which nothing is known. A number added
    to all log hazards, which Cox's loss cannot see, changes nothing.

    Args:
        times: (k,) distinct event times, ascending.
        cumulative_hazard: (k,) H0 at them.
        centre: c.

    Raises:
        ValueError: lengths that differ or are 0, times that do not ascend from >= 0, a hazard that falls or starts below 0.

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

    def __init__(self, times: ArrayLike, cumulative_hazard: ArrayLike, centre: float = 0.0) -> None:
        self.times: NDArray[np.float64] = np.array(times, dtype=np.float64)
        self.cumulative_hazard: NDArray[np.float64] = np.array(cumulative_hazard, dtype=np.float64)
        self.centre = float(centre)
        if self.times.ndim != 1 or not len(self.times) or self.times.shape != self.cumulative_hazard.shape:
            raise ValueError(
                "times and cumulative_hazard must have one shape (k,), k > 0, "
                f"got {self.times.shape} and {self.cumulative_hazard.shape}"
            )
        if not (self.times[0] >= 0 and (np.diff(self.times) > 0).all()):
            raise ValueError(f"times must ascend from >= 0, got {self.times.tolist()}")
        if not (self.cumulative_hazard[0] >= 0 and (np.diff(self.cumulative_hazard) >= 0).all()):
            raise ValueError(
                f"cumulative_hazard must not fall, from >= 0, got {self.cumulative_hazard.tolist()}"
            )

    def __repr__(self) -> str:
        return f"BreslowBaseline({len(self.times)} event times up to {self.times[-1]:g})"

    @classmethod
    def fit(cls, log_hazard: ArrayOrTensor, target: SurvivalTarget) -> BreslowBaseline:
        """The baseline of training patients, from the model's raw outputs in `eval()`.

        Shape:
            log_hazard: (n,) or (n, 1)

        Raises:
            ValueError: another shape, lengths that differ, a log hazard that is not finite, no event at all.
        """
        eta = _log_hazards(log_hazard)
        if len(eta) != len(target):
            raise ValueError(f"got {len(eta)} log hazards for {len(target)} patients")
        if not target.event.any():
            raise ValueError("a baseline needs at least one observed event, got none")
        # Sums over those at risk run from the last time to the first, in logarithms, so that nothing overflows.
        order = np.argsort(target.time, kind="stable")
        log_sums = np.logaddexp.accumulate((eta - eta.mean())[order][::-1])[::-1]
        times, deaths = np.unique(target.time[target.event], return_counts=True)
        first_at_risk = np.searchsorted(target.time[order], times, side="left")
        return cls(times, np.cumsum(deaths * np.exp(-log_sums[first_at_risk])), eta.mean())

    def survival(self, log_hazard: ArrayOrTensor, times: ArrayOrTensor) -> Tensor:
        """S of any patients at any times.

        Shape:
            log_hazard: (b,) or (b, 1)
            times: (t,)
            returns: (b, t), of the log hazards' type and device.

        Raises:
            ValueError: another shape, a log hazard that is not finite, a time that is negative or NaN.
        """
        asked = np.asarray(as_tensor(times).detach().cpu(), dtype=np.float64)
        if asked.ndim != 1:
            raise ValueError(f"times must have shape (t,), got {asked.shape}")
        if not (asked >= 0).all():
            raise ValueError("times must be >= 0 and not NaN")
        steps = np.concatenate(([0.0], self.cumulative_hazard))
        so_far = steps[np.searchsorted(self.times, asked, side="right")]
        return _like(log_hazard, np.exp(-so_far * self._relative(log_hazard)[:, None]))

    def median(self, log_hazard: ArrayOrTensor) -> Tensor:
        """The first time at which S <= 1/2, (b,); inf where the curve ends above it.

        Raises:
            ValueError: as for `survival`.
        """
        hazard = self.cumulative_hazard * self._relative(log_hazard)[:, None]
        reached = np.exp(-hazard) <= 0.5
        return _like(log_hazard, np.where(reached.any(axis=1), self.times[reached.argmax(axis=1)], np.inf))

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and floats, for JSON or a checkpoint."""
        return {
            "times": self.times.tolist(),
            "cumulative_hazard": self.cumulative_hazard.tolist(),
            "centre": self.centre,
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> BreslowBaseline:
        """The baseline that `to_dict` wrote."""
        return cls(**state)

    def _relative(self, log_hazard: ArrayOrTensor) -> NDArray[np.float64]:
        # exp(700) is finite in float64, and any curve falls to 0 at its first step.
        return np.exp(np.clip(_log_hazards(log_hazard) - self.centre, -700, 700))


def _log_hazards(log_hazard: ArrayOrTensor) -> NDArray[np.float64]:
    values: NDArray[np.float64] = (
        outputs_1d(as_tensor(log_hazard), "log_hazard").detach().cpu().double().numpy()
    )
    if not np.isfinite(values).all():
        raise ValueError(f"log_hazard must be finite, got {values[~np.isfinite(values)][0]}")
    return values


def _like(log_hazard: ArrayOrTensor, values: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(values).to(as_tensor(log_hazard))
