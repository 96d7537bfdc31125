"""A cohort at a glance: events, follow-up, and who lacks what."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from healnet.survival.target import SurvivalTarget

__all__ = ["Summary", "median_follow_up", "patterns", "summarize", "to_html"]


@dataclass(frozen=True)
class Summary:
    """A cohort in text or, in a notebook, as tables of HTML.

    Attributes:
        head: Lines on patients, outcomes and labels.
        modalities: One row per modality: patients, features, missing cells.
        combinations: Number of patients who have each combination of modalities, the most frequent first.
    """

    head: tuple[str, ...]
    modalities: pd.DataFrame
    combinations: pd.DataFrame

    def __str__(self) -> str:
        return "\n".join([*self.head, "", _align(self.modalities), "", _align(self.combinations)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = "<br>".join(escape(line) for line in self.head)
        return f"<div>{head}{to_html(self.modalities)}{to_html(self.combinations)}</div>"


def to_html(table: pd.DataFrame) -> str:
    """A table for a notebook, without its index."""
    html: str = table.to_html(index=False, border=0, justify="left")
    return html


def median_follow_up(target: SurvivalTarget) -> float:
    """Median follow-up by the reverse Kaplan-Meier method: the time by which half of the patients would have been censored.

    The Kaplan-Meier curve with censoring as the event (Schemper and Smith, Control Clin Trials 1996). Where a death and
    a censoring share a time, the dead are still at risk of being censored then, as is usual in Kaplan-Meier.

    Returns:
        The first time at which the curve is at or below one half; NaN if it stays above.

    Example:
        >>> median_follow_up(SurvivalTarget([1.0, 2.0, 3.0, 4.0], [True, False, False, False]))
        3.0
    """
    times = np.unique(target.time)
    # Counts at each distinct time: censored there, and still followed just before.
    censored = np.bincount(np.searchsorted(times, target.time), weights=~target.event, minlength=len(times))
    at_risk = len(target) - np.searchsorted(np.sort(target.time), times)
    curve = np.cumprod(1 - censored / at_risk)
    # A curve through exactly one half must count as there, whatever the rounding of the product.
    reached = np.flatnonzero(curve <= 0.5 + 1e-12)
    return float(times[reached[0]]) if len(reached) else float("nan")


def patterns(missing: pd.DataFrame) -> pd.DataFrame:
    """Count the patients with each pattern of modalities, the most frequent first: an UpSet plot as a table.

    Args:
        missing: (n, modalities) bool, True = the patient lacks it.

    Returns:
        One row per pattern: a bool column per modality, True = has it, and `patients`.
    """
    names = list(missing.columns)
    counts = (~missing).value_counts(sort=False).rename("patients").reset_index()
    # Ties in an order that does not depend on the rows' order.
    counts = counts.sort_values(["patients", *names], ascending=False, kind="stable")
    return counts.reset_index(drop=True)


def summarize(
    target: SurvivalTarget | None, labels: pd.DataFrame, missing: pd.DataFrame, modalities: pd.DataFrame
) -> Summary:
    """Compute the result of `Cohort.summary`.

    Args:
        target: Follow-up of the patients, None where it is not known.
        labels: (n, labels) classes and numbers.
        missing: (n, modalities) bool, True = the patient lacks it.
        modalities: One row per modality: patients, features, missing cells.
    """
    head = [f"{len(missing)} patients" + ("" if target is None else _outcomes(target))]
    head += [f"label {name}: {_spread(column)}" for name, column in labels.items()]
    table = patterns(missing)
    names = list(missing.columns)
    marks = pd.DataFrame(np.where(table[names], "●", "·"), columns=names)
    upset = pd.concat([table["patients"], marks], axis=1)
    return Summary(tuple(head), modalities.reset_index(), upset)


def _outcomes(target: SurvivalTarget) -> str:
    events = int(target.event.sum())
    share = f" ({events / len(target):.0%})" if len(target) else ""
    follow_up = median_follow_up(target) if len(target) else float("nan")
    median = "not reached" if np.isnan(follow_up) else f"{follow_up:g}"
    return f", {events} events{share}, median follow-up {median} (reverse Kaplan-Meier)"


def _spread(label: pd.Series[Any]) -> str:
    """The sizes of the classes, or the range of the numbers, and how many patients lack the label."""
    known = label.dropna()
    if isinstance(label.dtype, pd.CategoricalDtype):
        parts = [f"{count} {value}" for value, count in known.value_counts(sort=False).items()]
    else:
        parts = [f"{known.min():g} to {known.max():g}, median {known.median():g}"] if len(known) else []
    unknown = len(label) - len(known)
    return ", ".join(parts + ([f"{unknown} unknown"] if unknown else []))


def _align(table: pd.DataFrame) -> str:
    """Columns as wide as their widest cell; the first to the left, unless it counts, the others to the right."""
    cells = [
        [str(column) for column in table.columns],
        *[[str(cell) for cell in row] for row in table.to_numpy()],
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    first_left = not pd.api.types.is_numeric_dtype(table.dtypes.iloc[0])
    lines = []
    for row in cells:
        padded = [
            cell.ljust(width) if place == 0 and first_left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)
