"""Per-column standardization whose statistics see the training patients only: `Standardizer`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtri

from healnet.data.checks import shorten
from healnet.data.cohort import Cohort
from healnet.data.modalities.sparse_table import SparseTable
from healnet.data.modalities.table import Features, Table

__all__ = ["Standardizer"]

# The standard deviation of a normal distribution over its interquartile range, so that both methods agree on one.
_IQR_TO_STD = 0.7413011092528009


class Standardizer:
    """Subtract each column's center and divide by its scale, both of the real cells of the training patients.

    Missing cells stay missing, absent patients stay absent, and with "mean" sparse tables stay sparse. Modalities that are
    not tables pass through. A column that is constant in training is centered and divided by 1 (listed in `constant`); one
    without a single real cell in training has no statistics, so its cells become missing everywhere (listed in `unseen`).

    Args:
        method: "mean" for mean and standard deviation (with n in the denominator); "median" for the median and the
            interquartile range scaled to a standard deviation, which a few wild values do not move (the standard
            deviation itself where most cells hold one value, as mutations do); "rank" for normal scores, the quantile of
            the normal distribution at a value's place among the training cells, which suits long tails.
        clip: Limit of the standardized values on both sides, None for no limit. Protects from values far outside
            what training saw.

    Example:
        >>> from healnet.survival import SurvivalTarget
        >>> table = pd.DataFrame({"age": [50.0, 60.0, 100.0]}, index=["a", "b", "c"])
        >>> cohort = Cohort({"clinical": table}, SurvivalTarget([1.0, 2.0, 3.0], [True, True, False]), ["a", "b", "c"])
        >>> scaler = Standardizer().fit(cohort[:2])
        >>> scaler.transform(cohort).table("clinical")["age"].tolist()
        [-1.0, 1.0, 9.0]
        >>> Standardizer("rank").fit(cohort).transform(cohort).table("clinical")["age"].round(3).tolist()
        [-1.225, 0.0, 1.225]
    """

    def __init__(self, method: Literal["mean", "median", "rank"] = "mean", clip: float | None = None) -> None:
        if method not in ("mean", "median", "rank"):
            raise ValueError(f"expected method 'mean', 'median' or 'rank', got {method!r}")
        if clip is not None and not clip > 0:
            raise ValueError(f"expected clip > 0 or None, got {clip}")
        self.method = method
        self.clip = clip
        self._statistics: dict[str, pd.DataFrame] | None = None
        self._sorted: dict[str, NDArray[np.float64]] = {}

    def fit(self, cohort: Cohort) -> Standardizer:
        """Take the statistics of these patients alone. Returns itself.

        Raises:
            ValueError: A cohort without patients; a column whose numbers are too large or too small for float64.
        """
        if not isinstance(cohort, Cohort):
            raise ValueError(
                f"expected a Cohort, got {type(cohort).__name__}; Cohort({{'rna': table}}) makes one"
            )
        if not len(cohort):
            raise ValueError("expected at least one patient to fit on")
        self._statistics = {}
        self._sorted = {}
        for name in cohort.tables:
            if (thin := self._sparse(cohort, name)) is not None:
                self._statistics[name] = self._fit_sparse(name, thin)
                continue
            table = cohort.table(name)
            if self.method == "rank":
                self._sorted[name] = np.sort(table.to_numpy(), axis=0)
            self._statistics[name] = self._fit_table(name, table)
        return self

    def __repr__(self) -> str:
        clip = "" if self.clip is None else f", clip={self.clip:g}"
        fitted = (
            ["not fitted"]
            if self._statistics is None
            else [f"{n} {len(t)}" for n, t in self._statistics.items()]
        )
        return f"Standardizer({self.method!r}{clip}: {', '.join(fitted)})"

    def transform(self, cohort: Cohort) -> Cohort:
        """The same patients with standardized tables. Columns are found by name, and come in the order of the fit.

        Raises:
            ValueError: Before `fit`, a modality that was not fitted, or columns that differ.
        """
        changed: dict[str, pd.DataFrame | Features] = {}
        for name in cohort.tables:
            statistics = self._statistics_of(name)
            center, scale = statistics["center"].to_numpy(), statistics["scale"].to_numpy()
            # A column that was constant has no deviation: another value counts as one, however far away it is.
            limit = np.where(statistics["constant"], 1.0, np.inf)
            limit = limit if self.clip is None else np.minimum(limit, self.clip)
            thin = self._sparse(cohort, name)
            if thin is not None:
                order = self._order(name, thin.columns, statistics.index)
                changed[name] = thin.standardized(order, center, scale, limit)
                continue
            table = cohort.table(name)
            order = self._order(name, table.columns, statistics.index)
            values = table.to_numpy()
            same = table.columns.equals(statistics.index)
            values = (self._scores(name, values if same else values[:, order]) - center) / scale
            bounded = np.isfinite(limit)
            if bounded.all():
                np.clip(values, -limit, limit, out=values)
            elif bounded.any():
                values[:, bounded] = values[:, bounded].clip(-limit[bounded], limit[bounded])
            changed[name] = Table.owning(values, cohort.patients, statistics.index)
        return cohort.replace(changed) if changed else cohort  # slides alone, say

    @property
    def statistics(self) -> dict[str, pd.DataFrame]:
        """Per modality, one row per column: `center`, `scale`, `cells` (real cells in training), `constant`.

        With method="rank", center and scale are those of the normal scores.

        Raises:
            ValueError: Before `fit`.
        """
        if self._statistics is None:
            raise ValueError("the Standardizer is not fitted; call fit(cohort[train]) first")
        return {name: table.copy() for name, table in self._statistics.items()}

    def raw_statistics(self, name: str) -> pd.DataFrame:
        """One row per column of a table: `center` and `scale` in its own unit, also with method="rank".

        Raises:
            ValueError: Before `fit`, or a modality that was not fitted.
        """
        statistics = self._statistics_of(name)[["center", "scale"]]
        if self.method != "rank":
            return statistics
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of a column without real cells
            center, scale = np.nanmean(self._sorted[name], axis=0), np.nanstd(self._sorted[name], axis=0)
        return pd.DataFrame({"center": center, "scale": np.where(scale > 0, scale, 1.0)}, statistics.index)

    @property
    def constant(self) -> dict[str, list[str]]:
        """Per modality, the columns with one value in all of training: centered, and another value is at most 1 away."""
        return {name: list(table.index[table["constant"]]) for name, table in self.statistics.items()}

    @property
    def unseen(self) -> dict[str, list[str]]:
        """Per modality, the columns without a real cell in training: missing for all patients from here on."""
        return {name: list(table.index[table["cells"] == 0]) for name, table in self.statistics.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, for JSON. With the method "rank" they hold each column's training cells, sorted.

        Raises:
            ValueError: Before `fit`.
        """
        tables = {}
        for name, table in self.statistics.items():
            known = table.astype(object).where(table.notna(), None)  # JSON has no NaN
            tables[name] = {"columns": list(table.index), **{key: known[key].tolist() for key in known}}
            if name in self._sorted:
                tables[name]["sorted"] = [
                    column[~np.isnan(column)].tolist() for column in self._sorted[name].T
                ]
        return {"method": self.method, "clip": self.clip, "tables": tables}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Standardizer:
        """The standardizer that `to_dict` wrote.

        Raises:
            ValueError: Statistics that are not finite or of different lengths, a scale that is not positive.
        """
        scaler = cls(state["method"], state["clip"])
        scaler._statistics = {}
        for name, table in state["tables"].items():
            statistics = pd.DataFrame(
                {
                    "center": np.asarray(table["center"], dtype=np.float64),
                    "scale": np.asarray(table["scale"], dtype=np.float64),
                    "cells": table["cells"],
                    "constant": table["constant"],
                },
                index=table["columns"],
            )
            fitted = statistics[statistics["cells"] > 0]
            if not (np.isfinite(fitted["center"]).all() and (fitted["scale"] > 0).all()):
                raise ValueError(f"modality {name!r}: expected finite centers and positive scales")
            scaler._statistics[name] = statistics
            if scaler.method == "rank":
                known = [np.sort(np.asarray(column, dtype=np.float64)) for column in table["sorted"]]
                cells = np.full((max(map(len, known)), len(statistics)), np.nan)
                for column, values in zip(cells.T, known, strict=True):
                    column[: len(values)] = values
                scaler._sorted[name] = cells
        return scaler

    def _scores(self, name: str, table: NDArray[np.float64]) -> NDArray[np.float64]:
        """Normal scores for "rank", the values themselves for the other methods."""
        if self.method != "rank":
            return table
        scores = np.full(table.shape, np.nan)
        for column, (cells, values) in enumerate(zip(self._sorted[name].T, table.T, strict=True)):
            known = cells[: np.count_nonzero(~np.isnan(cells))]  # sorting puts NaN last
            # The middle of a value's place among n training cells, as a share that is never 0 or 1.
            place = (np.searchsorted(known, values, "left") + np.searchsorted(known, values, "right") + 1) / 2
            scores[:, column] = np.where(np.isnan(values), np.nan, ndtri(place / (len(known) + 1)))
        return scores

    def _fit_table(self, name: str, table: pd.DataFrame) -> pd.DataFrame:
        values = self._scores(name, table.to_numpy())
        with warnings.catch_warnings():
            # A column without real cells: numpy warns about the empty mean, we list it as `unseen`.
            warnings.simplefilter("ignore", RuntimeWarning)
            center, scale = np.nanmean(values, axis=0), np.nanstd(values, axis=0)
            lowest, highest = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
            if self.method == "median":
                lower, center, upper = np.nanquantile(values, [0.25, 0.5, 0.75], axis=0)
                iqr = upper - lower
                # A column of mostly one value has no interquartile range.
                scale = np.where(iqr > 0, iqr * _IQR_TO_STD, scale)
        cells = (~np.isnan(values)).sum(axis=0)
        found = {"center": center, "scale": scale, "least": lowest, "largest": highest, "cells": cells}
        return self._checked(name, table.columns, found)

    def _fit_sparse(self, name: str, table: SparseTable) -> pd.DataFrame:
        found = table.moments()
        return self._checked(
            name, table.columns, found | {"center": found["mean"], "scale": found["deviation"]}
        )

    def _sparse(self, cohort: Cohort, name: str) -> SparseTable | None:
        """A table that stays sparse: means alone need no filled in cells."""
        modality = cohort.modality(name)
        if isinstance(modality, SparseTable) and modality.center is None and self.method == "mean":
            return modality
        return None

    @staticmethod
    def _checked(name: str, columns: pd.Index, found: dict[str, NDArray[np.float64]]) -> pd.DataFrame:
        """The statistics of a modality, once they are known to be usable: of each column center, scale, extremes, cells."""
        center, scale, lowest, highest = (found[key] for key in ("center", "scale", "least", "largest"))
        # By the extremes, for in floating point the deviation of equal numbers is not always exactly 0.
        constant = lowest == highest
        usable = np.isfinite(center) & np.isfinite(scale) & (scale >= np.finfo(np.float64).tiny)
        for at in np.flatnonzero(~usable & ~constant & ~np.isnan(lowest))[:1]:
            raise ValueError(
                f"modality {name!r}: column {columns[at]!r} cannot be standardized in float64: "
                f"its values go from {lowest[at]:g} to {highest[at]:g}"
            )
        return pd.DataFrame(
            {
                "center": np.where(constant, highest, center),
                "scale": np.where(constant, 1.0, scale),
                "cells": found["cells"],
                "constant": constant,
            },
            index=columns,
        )

    def _statistics_of(self, name: str) -> pd.DataFrame:
        fitted = self.statistics
        if name not in fitted:
            raise ValueError(f"modality {name!r} was not fitted; fitted were {', '.join(map(repr, fitted))}")
        return fitted[name]

    @staticmethod
    def _order(name: str, given: pd.Index, columns: pd.Index) -> NDArray[np.intp]:
        absent, extra = columns.difference(given, sort=False), given.difference(columns, sort=False)
        if len(absent) or len(extra):
            parts = [f"lacks {shorten(absent)}"] * bool(len(absent)) + [f"adds {shorten(extra)}"] * bool(
                len(extra)
            )
            raise ValueError(
                f"modality {name!r}: the columns differ from those fitted: it {' and '.join(parts)}"
            )
        return np.asarray(given.get_indexer(columns), dtype=np.intp)
