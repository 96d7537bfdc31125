"""Draw survival: Kaplan-Meier curves, predicted curves, calibration, risks, and models side by side.

Each function draws on `ax`, or in a figure of its own, and returns the axes; none touches pyplot. Colors are those of Okabe
and Ito, which color-blind readers can tell apart; groups differ in line style, too. Make your own figures with
``layout="constrained"``, so that the numbers at risk have space below the axis. Needs ``pip install healnet[plots]``.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from healnet._plotting import PALETTE, STYLES, despine, new_axes, readable, use_fonts
from healnet.survival._checks import as_array, check_risk
from healnet.survival._order import check_columns, check_order
from healnet.survival.curve import SurvivalCurve
from healnet.survival.metrics.calibration import Calibration
from healnet.survival.nonparametric import KaplanMeier, group_labels, kaplan_meier, logrank_p
from healnet.survival.target import SurvivalTarget

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = [
    "plot_calibration",
    "plot_forest",
    "plot_kaplan_meier",
    "plot_risk_histogram",
    "plot_survival_curves",
]

_ROW = 12.0  # points between the rows of the numbers at risk
_OUTSIDE: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}  # a legend beside the axes


def plot_kaplan_meier(
    target: SurvivalTarget,
    groups: ArrayLike | None = None,
    *,
    unit: str | None = None,
    order: Sequence[str] | None = None,
    at_risk: bool = True,
    confidence: float = 0.95,
    p_value: float | Literal["logrank"] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Kaplan-Meier curves per group: confidence bands, censoring ticks, numbers at risk.

    Args:
        target: n patients.
        groups: (n,) labels of the patients; None = one group.
        unit: Unit of the times, for the label of the axis: "months".
        order: The labels, in the order to draw and name them; sorted if left out.
        at_risk: Whether to write the numbers at risk below the axis.
        confidence: Level of the bands.
        p_value: p to write above the legend: "logrank" computes the log-rank test of groups that were known before
            follow-up (stages, arms of a trial, halves by one fixed model). It is too small for halves by out-of-fold
            risks, whose models were fitted on each other's patients: give the p of `permutation_test` there.
        ax: Axes to draw on; by default new axes of a figure of their own.

    Raises:
        ValueError: A p outside [0, 1], "logrank" with one group or without events, no patients, a label
            missing for some, a label in `order` that no patient has or the other way round.
    """
    labels = np.full(len(target), "all") if groups is None else group_labels(groups, target)
    present = np.unique(labels).tolist()
    names = present if order is None else [str(name) for name in order]
    if sorted(names) != present:
        raise ValueError(f"expected order to name the groups {present}, got {names}")
    ax = new_axes(7.0, 5.0) if ax is None else ax
    estimates = []
    for k, name in enumerate(names):
        part = target[labels == name]
        estimate = kaplan_meier(part, confidence)
        estimates.append(estimate)
        color, style = PALETTE[k % len(PALETTE)], STYLES[k % len(STYLES)]
        events = int(part.event.sum())
        counts = f"(n = {len(part)}, {events} event{'s' * (events != 1)})"
        title = textwrap.fill(readable(name, longest=999), 32) + (" " if len(name) <= 20 else "\n") + counts
        ax.step(estimate.time, estimate.survival, where="post", color=color, linestyle=style, label=title)
        ax.fill_between(
            estimate.time, estimate.low, estimate.high, step="post", color=color, alpha=0.15, lw=0
        )
        censored = np.unique(part.time[~part.event])
        ax.plot(censored, estimate.at(censored), "|", color=color, markersize=5)
    ax.set(xlabel=_time_label(unit), ylabel="Probability of survival", ylim=(0, 1.03))
    ax.set_xlim(0, float(target.time.max()) * 1.02 or 1.0)
    place = _legend_place(estimates, float(target.time.max()))
    legend = ax.legend(frameon=False, fontsize="small", title_fontsize="small", **place)
    if p_value is not None:
        if p_value == "logrank":
            legend.set_title(f"log-rank p {_p_text(logrank_p(labels, target))}")
        elif 0 <= p_value <= 1:
            legend.set_title(f"p {_p_text(p_value)}")
        else:
            raise ValueError(f"expected p_value 'logrank' or in [0, 1], got {p_value!r}")
        legend.set_alignment("left")
    despine(ax)
    if at_risk:
        _write_at_risk(ax, target, labels, names)
    use_fonts(ax)
    return ax


def plot_survival_curves(
    survival: SurvivalCurve | ArrayLike,
    times: ArrayLike | None = None,
    *,
    labels: Sequence[str] | None = None,
    target: SurvivalTarget | None = None,
    unit: str | None = None,
    steps: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Predicted curves of single patients.

    With a target, a dot marks where each had the event, a ring where they were censored.

    Args:
        survival: A `SurvivalCurve` of a few patients, or (n, t) probabilities at `times`.
        times: (t,) increasing; with a `SurvivalCurve` 200 points over its bins if left out.
        labels: N names.
        target: Outcomes of the patients.
        unit: Unit of the times, for the label of the axis: "months".
        steps: Whether the array holds step functions that fall at `times`, as those of `BreslowBaseline` do.
        ax: Axes to draw on; by default new axes of a figure of their own.

    Raises:
        ValueError: An array without `times`, shapes that do not fit, patients or columns of a DataFrame in another order.
    """
    if isinstance(survival, SurvivalCurve):
        span = float(survival.edges[-1])
        grid = np.linspace(0, span, 200) if times is None else np.asarray(times, dtype=np.float64)
        values = survival.at(grid).detach().double().cpu().numpy()
    else:
        if times is None:
            raise ValueError("expected times, one for each column of an array of survival, got None")
        grid = np.asarray(as_array(times), dtype=np.float64)
        check_columns(survival, grid)
        values = np.asarray(as_array(survival), dtype=np.float64)
        if values.ndim != 2 or values.shape[1:] != grid.shape:
            raise ValueError(
                f"expected survival of shape (n, {len(grid)}) for {len(grid)} times, got {values.shape}"
            )
        if grid[0] > 0:
            grid, values = np.append(0.0, grid), np.pad(values, ((0, 0), (1, 0)), constant_values=1.0)
    names = [f"patient {i + 1}" for i in range(len(values))] if labels is None else list(labels)
    for what, given in (("labels", names), ("target", target)):
        if given is not None and len(given) != len(values):
            raise ValueError(f"expected {what} of the {len(values)} patients of survival, got {len(given)}")
    if target is not None:
        check_order(survival, target, "survival")
    ax = new_axes(7.0, 4.5) if ax is None else ax
    for k, curve in enumerate(values):
        color, style = PALETTE[k % len(PALETTE)], STYLES[k % len(STYLES)]
        drawn = "steps-post" if steps else "default"
        ax.plot(
            grid, curve, color=color, linestyle=style, drawstyle=drawn, label=readable(names[k], longest=44)
        )
        if target is not None:
            time, seen = float(target.time[k]), bool(target.event[k])
            below = curve[np.searchsorted(grid, time, side="right") - 1]
            height = float(below if steps else np.interp(time, grid, curve))
            ax.plot(time, height, "o", color=color, markerfacecolor=color if seen else "white", zorder=3)
    for seen, fate, fill in ((True, "event", "0.3"), (False, "censored", "white")):
        if target is not None and (target.event == seen).any():
            ax.plot([], [], "o", color="0.3", markerfacecolor=fill, label=fate)
    ax.set(xlabel=_time_label(unit), ylabel="Predicted probability of survival", ylim=(0, 1.03))
    ax.set_xlim(left=0)
    ax.legend(frameon=False, fontsize="small", **(_OUTSIDE if len(names) > 5 else {}))
    use_fonts(ax)
    return despine(ax)


def plot_calibration(result: Calibration, *, horizon: str = "the horizon", ax: Axes | None = None) -> Axes:
    """Predicted against observed probability of the event, one point per group, with confidence limits.

    Args:
        result: Result of `calibration_groups`; groups whose observed share is undefined are left out.
        horizon: The time, with its unit, as in "5 years".
        ax: Axes to draw on; by default new axes of a figure of their own.

    Raises:
        ImportError: Matplotlib is not installed.
    """
    ax = new_axes(5.0, 4.6) if ax is None else ax
    known = ~np.isnan(result.observed)
    predicted, observed = result.predicted[known], result.observed[known]
    # At shares of 0 and 1 the log-log limits are undefined or rounded past the estimate.
    low = np.fmin(np.nan_to_num(result.low[known], nan=np.inf), observed)
    high = np.fmax(np.nan_to_num(result.high[known], nan=-np.inf), observed)
    top = float(np.max(np.concatenate([predicted, high, [0.1]])))
    ax.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1, label="perfect calibration")
    bars = np.stack([observed - low, high - observed])
    ax.errorbar(predicted, observed, bars, fmt="o", color=PALETTE[0], capsize=3, label="groups of patients")
    limit = min(1.0, top * 1.05) + 0.02
    ax.set(xlim=(-0.02, limit), ylim=(-0.02, limit), aspect="equal")
    ax.set(xlabel=f"Predicted probability by {horizon}", ylabel=f"Observed probability by {horizon}")
    crowded = bool(((predicted > limit / 2) & (low < limit / 5)).any())
    ax.legend(frameon=False, loc="upper left" if crowded else "lower right")
    use_fonts(ax)
    return despine(ax)


def plot_risk_histogram(
    risk: ArrayLike,
    target: SurvivalTarget,
    *,
    bins: int = 20,
    label: str = "Predicted risk",
    ax: Axes | None = None,
) -> Axes:
    """Histogram of predicted risks: patients with the event against censored ones, in shares of each.

    Args:
        risk: (n,)
        target: n patients.
        bins: Number of bars.
        label: Label of the horizontal axis, with its unit where it has one.
        ax: Axes to draw on; by default new axes of a figure of their own.

    Raises:
        ValueError: Another number of risks, risks that are not finite.
    """
    values = check_risk(risk, target)
    ax = new_axes(6.0, 4.0) if ax is None else ax
    edges = np.histogram_bin_edges(values, bins).tolist()
    for seen, name, color, hatch in ((False, "censored", PALETTE[0], ""), (True, "event", PALETTE[1], "///")):
        part = values[target.event == seen]
        if len(part):
            share = np.full(len(part), 1 / len(part))
            title = f"{name} (n = {len(part)})"
            ax.hist(part, edges, weights=share, color=color, alpha=0.35, label=title)
            ax.hist(part, edges, weights=share, histtype="step", edgecolor=color, hatch=hatch, linewidth=1.5)
    ax.set(xlabel=label, ylabel="Share of patients in the group")
    ax.legend(frameon=False)
    use_fonts(ax)
    return despine(ax)


def plot_forest(
    results: pd.DataFrame,
    *,
    name: str = "model",
    value: str = "c_index",
    low: str | None = None,
    high: str | None = None,
    label: str = "Concordance index",
    reference: float | None = 0.5,
    ax: Axes | None = None,
) -> Axes:
    """Models side by side, in the order they first appear, with value and interval in figures.

    Either one row per model with the columns `low` and `high`, or many rows per model (folds): then the mean,
    the standard deviation as the bar, and every row as a small dot.

    Args:
        results: A table; rows without a value are left out.
        name: The column that names the models.
        value: The column of the metric.
        low: The column of the lower limits, or None.
        high: The column of the upper limits, or None.
        label: Name of the metric, with its unit where it has one.
        reference: Position of the line of no effect; None = no line.
        ax: Axes to draw on; by default new axes of a figure of their own.

    Raises:
        ValueError: A column that the table lacks, `low` without `high` or with many rows per model, no rows.
    """
    if (low is None) != (high is None):
        raise ValueError(f"expected low and high or neither, got {low!r} and {high!r}")
    columns = [column for column in (name, value, low, high) if column is not None]
    missing = [column for column in columns if column not in results.columns]
    if missing:
        raise ValueError(f"expected results with the columns {missing}, got {list(results.columns)}")
    known = results[results[value].notna()]
    models = list(dict.fromkeys(known[name].tolist()))
    if not models:
        raise ValueError(f"expected results with a value of {value!r}, got none")
    if low is not None and len(models) != len(known):
        raise ValueError(
            f"expected one row per model with low and high, got {len(known)} for {len(models)} models"
        )
    ax = new_axes(7.0, 1.2 + 0.32 * len(models)) if ax is None else ax
    for row, model in enumerate(models):
        part = known[known[name] == model]
        values = part[value].to_numpy(dtype=np.float64)
        center = float(values.mean())
        if low is not None and high is not None:
            ends = float(part[low].iloc[0]), float(part[high].iloc[0])
            text = f"{center:.3f} ({ends[0]:.3f} to {ends[1]:.3f})"
            if np.isnan(ends).any():  # a metric without an interval
                text = f"{center:.3f}"
        else:
            spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
            ends = center - spread, center + spread
            text = f"{center:.3f} ± {spread:.3f}" if len(values) > 1 else f"{center:.3f}"
            if len(values) > 1:
                ax.plot(values, np.full(len(values), row), ".", color="0.65", markersize=4, zorder=1)
        ax.plot(ends, (row, row), color=PALETTE[0], linewidth=2, solid_capstyle="butt")
        ax.plot(center, row, "s", color=PALETTE[0], markersize=6, zorder=3)
        ax.annotate(
            text,
            (1.02, row),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize="small",
            annotation_clip=False,
        )
    if reference is not None:
        ax.axvline(reference, color="0.5", linestyle="--", linewidth=1, zorder=0)
    ax.set_yticks(range(len(models)), [textwrap.fill(readable(model, longest=999), 28) for model in models])
    ax.set(ylim=(len(models) - 0.5, -0.5), xlabel=label)
    ax.tick_params(axis="y", length=0)
    use_fonts(ax)
    return despine(ax)


def _write_at_risk(ax: Axes, target: SurvivalTarget, labels: NDArray[np.str_], names: Sequence[str]) -> None:
    """Rows below the label of the axis, in points, so that they stay apart at any size of the figure."""
    right = ax.get_xlim()[1]
    ticks = [tick for tick in ax.get_xticks() if 0 <= tick <= right]
    ax.set_xticks(ticks)  # fixed, so that a later change of size does not part the numbers from their ticks
    top = -38.0
    ax.annotate(
        "Number at risk",
        (0, 0),
        (0, top),
        "axes fraction",
        textcoords="offset points",
        va="top",
        fontsize="small",
    )
    for k, name in enumerate(names):
        color = PALETTE[k % len(PALETTE)]
        height = top - _ROW * (k + 1)
        place: dict[str, Any] = {"va": "top", "fontsize": "small", "color": color, "annotation_clip": False}
        short = readable(name if len(name) <= 20 else name[:19] + "…")  # the legend has all of it
        ax.annotate(
            short, (0, 0), (-18, height), "axes fraction", textcoords="offset points", ha="right", **place
        )
        time = target.time[labels == name]
        for tick in ticks:
            count = str(int((time >= tick).sum()))
            ax.annotate(
                count,
                (tick, 0),
                (0, height),
                ("data", "axes fraction"),
                textcoords="offset points",
                ha="center",
                **place,
            )


def _legend_place(estimates: Sequence[KaplanMeier], last: float) -> dict[str, Any]:
    """The corner that no curve reaches: they fall from the upper left, some further than others; or none."""
    if len(estimates) <= 4:
        if min(estimate.survival[-1] for estimate in estimates) > 0.5:
            return {"loc": "lower left"}
        start = 0.4 * last  # legends are narrower than the rest
        reach = [float(e.at(start)) for e in estimates if e.time[-1] >= start]
        if max(reach, default=0.0) < 0.9 - 0.06 * len(estimates):
            return {"loc": "upper right"}
    return _OUTSIDE


def _time_label(unit: str | None) -> str:
    return "Time" if unit is None else f"Time ({unit})"


def _p_text(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}" if p < 0.1 else f"= {p:.2f}"
