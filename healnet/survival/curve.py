"""Survival curves in continuous time from survival at the ends of time bins: `SurvivalCurve`."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from healnet.survival._checks import (
    ArrayOrTensor,
    as_tensor,
    check_choice,
    check_inside,
    check_times_at,
    widen,
)
from healnet.survival.bins import TimeBins

__all__ = ["SurvivalCurve"]


class SurvivalCurve:
    """Survival curves of b patients in continuous time, from S at the edges of k bins, S(0) = 1.

    Between the edges the interpolation is

    - "linear": the event density is constant within a bin, S a straight line;
    - "exponential": the hazard is constant within a bin, log S a straight line (Kvamme and Borgan 2021,
      Lifetime Data Analysis 27:710, compare the two). Where S is exactly 0 at the end of a bin no finite hazard leads
      there, and S is the limit of ever larger ones: 0 from the beginning of the bin on, where the median then lies.
      `from_log` and `survival_function` keep log S, so that an S too small for float32 is not such a 0.

    Beyond the last edge, of which the model knows nothing, S stays as it was there. Differentiable in S.

    Args:
        survival: Survival at the end of each bin; half precision becomes float32.
        bins: The k time bins.
        interpolation: "linear" or "exponential".

    Shape:
        survival: (b, k)

    Raises:
        ValueError: Another shape than (b, k) for k bins, values that are not probabilities or that rise, another
            interpolation.

    Example:
        >>> curve = SurvivalCurve(torch.tensor([[0.8, 0.4, 0.1]]), TimeBins([0, 10, 20, 40]))
        >>> curve.at([0, 5, 20, 99])
        tensor([[1.0000, 0.9000, 0.4000, 0.1000]])
        >>> curve.median()
        tensor([17.5000])
        >>> curve.restricted_mean(20)
        tensor([15.])
    """

    def __init__(self, survival: Tensor, bins: TimeBins, interpolation: str = "linear") -> None:
        if survival.dim() != 2 or survival.shape[1] != bins.num_bins:
            raise ValueError(
                f"expected survival of shape (b, {bins.num_bins}) for {bins.num_bins} bins, got {tuple(survival.shape)}"
            )
        check_choice("interpolation", interpolation, ("linear", "exponential"))
        survival = widen(survival, "survival")
        # A parallel running product may rise by its rounding.
        if not bool(((survival >= 0) & (survival <= 1)).all() & (survival.diff(dim=1) <= 1e-5).all()):
            raise ValueError(
                "expected survival to hold probabilities in [0, 1] that do not rise from bin to bin"
            )
        self.bins = bins
        self.interpolation = interpolation
        self.last_time: float = bins.to_dict()["edges"][-1]
        self.values = pad(survival, (1, 0), value=1.0)  # (b, k + 1), at the edges
        alive = self.values > 0  # log has no gradient at 0
        self.log_values = torch.where(alive, torch.where(alive, self.values, 1).log(), -torch.inf)
        self.edges = torch.tensor(bins.edges, dtype=survival.dtype, device=survival.device)

    @classmethod
    def from_log(cls, log_survival: Tensor, bins: TimeBins, interpolation: str = "linear") -> SurvivalCurve:
        """Build curves from log S, which is known where S itself is too small for its precision.

        Shape:
            log_survival: (b, k)

        Raises:
            ValueError: As the constructor.
        """
        log_survival = widen(log_survival, "log_survival")
        curve = cls(log_survival.exp(), bins, interpolation)
        curve.log_values = pad(log_survival, (1, 0))
        return curve

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        return f"SurvivalCurve({len(self)} patients, {self.bins}, {self.interpolation!r})"

    def at(self, times: ArrayOrTensor) -> Tensor:
        """Return S at any times.

        Shape:
            times: (t,) the same for all patients, or (b, t) each patient's own.
            returns: (b, t)

        Raises:
            ValueError: Another shape, a time that is negative or NaN.
        """
        points = check_times_at(as_tensor(times).to(self.edges), len(self))
        upper, share = self._place(points)
        if self.interpolation == "linear":
            return self._between(self.values, upper, share)
        return self._between(self.log_values, upper, share).exp()

    def quantile(self, p: float) -> Tensor:
        """Return the first time at which S <= 1 - p; inf where the curve ends above it (as lifelines has it).

        Args:
            p: Share of events, in (0, 1); 0.5 is the median.

        Shape:
            returns: (b,)

        Raises:
            ValueError: P outside (0, 1).
        """
        check_inside("p", p)
        reached = self.values <= 1 - p
        upper = reached.long().argmax(dim=1).clamp(min=1).unsqueeze(1)
        knots, level = (
            (self.values, 1 - p) if self.interpolation == "linear" else (self.log_values, math.log(1 - p))
        )
        above, below = knots.gather(1, upper - 1), knots.gather(1, upper)
        share = (above - level) / torch.where(above > below, above - below, 1)
        low, high = self.edges[upper - 1], self.edges[upper]
        return torch.where(reached.any(dim=1), (low + share * (high - low)).squeeze(1), torch.inf)

    def median(self) -> Tensor:
        """Return the median survival time, (b,): the first time at which S <= 1/2; inf where the curve ends above it."""
        return self.quantile(0.5)

    def restricted_mean(self, horizon: float | None = None) -> Tensor:
        """Return the mean survival time within a horizon: the area under the curve from 0 to it.

        Exact for either interpolation, not a sum over a grid.

        Args:
            horizon: End of the area, in (0, last edge]; the last edge if left out.

        Shape:
            returns: (b,)

        Raises:
            ValueError: A horizon outside (0, last edge].
        """
        end = self.last_time if horizon is None else float(horizon)
        if not 0 < end <= self.last_time:
            raise ValueError(
                f"expected horizon in (0, {self.last_time:g}], the span of the bins, got {end:g}"
            )
        stop = self.edges.new_tensor([end])
        knots = torch.cat([self.edges[self.edges < stop], stop])
        upper, share = self._place(knots)
        values = self._between(
            self.values if self.interpolation == "linear" else self.log_values, upper, share
        )
        above, below = values[:, :-1], values[:, 1:]
        mean = (above + below) / 2 if self.interpolation == "linear" else _mean_of_exponential(above, below)
        return (mean * knots.diff()).sum(dim=1)

    def _place(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """The edge at or after each time, (b, t), and how far into the bin before it the time lies, in [0, 1]."""
        times = times.clamp(max=self.edges[-1]).expand(len(self), times.shape[-1]).contiguous()
        upper = torch.searchsorted(self.edges, times).clamp(min=1)
        low, high = self.edges[upper - 1], self.edges[upper]
        return upper, (times - low) / (high - low)

    def _between(self, knots: Tensor, upper: Tensor, share: Tensor) -> Tensor:
        """Interpolate on the line between two knots; -inf on the way to a knot of -inf."""
        above, below = knots.gather(1, upper - 1), knots.gather(1, upper)
        finite = below > -torch.inf
        line = above + share * (torch.where(finite, below, 0) - torch.where(finite, above, 0))
        return torch.where(finite, line, torch.where(share > 0, -torch.inf, above))


def _mean_of_exponential(above: Tensor, below: Tensor) -> Tensor:
    """(e^a - e^b) / (a - b), the mean of an exponential between e^a and e^b; zero where it falls to e^-inf."""
    alive = below > -torch.inf
    a, b = torch.where(alive, above, 0), torch.where(alive, below, 0)
    fall = a - b
    flat = fall < 0.1  # there the quotient loses digits; the series is off by less than 4e-12
    series = ((a + b) / 2).exp() * (1 + fall**2 / 24 + fall**4 / 1920)
    mean = torch.where(flat, series, (a.exp() - b.exp()) / torch.where(flat, 1, fall))
    return torch.where(alive, mean, 0)
