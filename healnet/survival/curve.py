"""From survival at the ends of time bins to a curve in continuous time: `SurvivalCurve`."""

from __future__ import annotations

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
    """Survival curves of b patients: S at the edges of k bins, S(0) = 1, and a rule in between.

    - "linear": the event density is constant within a bin, S a straight line;
    - "exponential": the hazard is constant within a bin, log S a straight line (Kvamme and Borgan 2021,
      Lifetime Data Analysis 27:710, compare the two).

    Both agree at the edges. Beyond the last edge, of which the model knows nothing, S stays as it was there.
    Differentiable in the survival probabilities.

    Args:
        survival: (b, k) S at the end of each bin; half precision becomes float32.
        bins: their edges.
        interpolation: "linear" or "exponential".

    Raises:
        ValueError: another shape than (b, k) for k bins, values that are not probabilities or that rise, bins that
            are not fitted, another interpolation.

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
        self.edges = torch.tensor(bins.edges, dtype=survival.dtype, device=survival.device)

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        return f"SurvivalCurve({len(self)} patients, {self.bins}, {self.interpolation!r})"

    def at(self, times: ArrayOrTensor) -> Tensor:
        """S at any times.

        Shape:
            times: (t,) the same for all patients, or (b, t) each patient's own.
            returns: (b, t)

        Raises:
            ValueError: another shape, a time that is negative or NaN.
        """
        asked = check_times_at(as_tensor(times).to(self.edges), len(self))
        asked = asked.clamp(max=self.edges[-1]).expand(len(self), asked.shape[-1]).contiguous()
        upper = torch.searchsorted(self.edges, asked).clamp(min=1)
        low, high = self.edges[upper - 1], self.edges[upper]
        return self._between(upper, (asked - low) / (high - low))

    def quantile(self, p: float) -> Tensor:
        """The first time at which S <= 1 - p; inf where the curve ends above it (as lifelines has it).

        Args:
            p: the share of events, in (0, 1); 0.5 is the median.

        Shape:
            returns: (b,)

        Raises:
            ValueError: p outside (0, 1).
        """
        check_inside("p", p)
        reached = self.values <= 1 - p
        upper = reached.long().argmax(dim=1).clamp(min=1).unsqueeze(1)
        above, below = self.values.gather(1, upper - 1), self.values.gather(1, upper)
        if self.interpolation == "linear":
            share = (above - (1 - p)) / torch.where(above > below, above - below, 1)
        else:
            share = (above / (1 - p)).log() / torch.where(above > below, (above / below).log(), 1)
        low, high = self.edges[upper - 1], self.edges[upper]
        return torch.where(reached.any(dim=1), (low + share * (high - low)).squeeze(1), torch.inf)

    def median(self) -> Tensor:
        """The median survival time, (b,): the first time at which S <= 1/2; inf where the curve ends above it."""
        return self.quantile(0.5)

    def restricted_mean(self, horizon: float | None = None) -> Tensor:
        """The mean survival time within a horizon: the area under the curve from 0 to it.

        Exact for either interpolation, not a sum over a grid.

        Args:
            horizon: in (0, last edge]; the last edge if left out.

        Shape:
            returns: (b,)

        Raises:
            ValueError: a horizon outside (0, last edge].
        """
        end = self.last_time if horizon is None else float(horizon)
        if not 0 < end <= self.last_time:
            raise ValueError(
                f"expected horizon in (0, {self.last_time:g}], the span of the bins, got {end:g}"
            )
        stop = self.edges.new_tensor([end])
        knots = torch.cat([self.edges[self.edges < stop], stop])
        values = self.at(knots)
        above, below = values[:, :-1], values[:, 1:]
        if self.interpolation == "linear":
            mean = (above + below) / 2
        else:
            mean = _logarithmic_mean(above, below)
        return (mean * knots.diff()).sum(dim=1)

    def _between(self, upper: Tensor, share: Tensor) -> Tensor:
        above, below = self.values.gather(1, upper - 1), self.values.gather(1, upper)
        if self.interpolation == "linear":
            return above + share * (below - above)
        return above ** (1 - share) * below**share


def _logarithmic_mean(above: Tensor, below: Tensor) -> Tensor:
    """(a - b) / log(a / b), the mean of an exponential between a and b; zero where it falls to b = 0."""
    alive = below > 0
    a, b = torch.where(alive, above, 1), torch.where(alive, below, 1)
    ratio = (a / b).log()
    flat = ratio < 0.1  # there the quotient loses digits; the series is off by less than 4e-12
    series = (a * b).sqrt() * (1 + ratio**2 / 24 + ratio**4 / 1920)
    mean = torch.where(flat, series, (a - b) / torch.where(flat, 1, ratio))
    return torch.where(alive, mean, 0)
