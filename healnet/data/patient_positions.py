"""Positions of patients in a cohort, from an index as NumPy takes it or from ids."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from healnet.data.checks import shorten
from healnet.data.modalities.modality import Index

__all__ = ["indexed_patients", "patients_by_id"]


def indexed_patients(index: Any, patients: pd.Index) -> Index:
    """Positions that an index means: a position, several, a slice or a bool mask.

    Args:
        index: The index; a Series is in the order of the patients, by their ids or by numbers of rows.
        patients: (n,) ids of the cohort.

    Raises:
        ValueError: Ids, a Series of patients in another order, a patient twice.
    """
    if isinstance(index, pd.Series):
        _check_order(index.index, patients)
    several = isinstance(index, list | pd.Index | np.ndarray) and np.ndim(index) > 0
    if any(isinstance(one, str) for one in (index[:1] if several else [index])):
        raise ValueError(
            f"expected positions, a slice or a bool mask, got {index!r}; locate() finds patients by id"
        )
    positions: Index = np.atleast_1d(np.arange(len(patients))[index])
    chosen = patients[positions]
    if chosen.has_duplicates:
        raise ValueError(f"patient {shorten(chosen[chosen.duplicated()].unique())} is given more than once")
    return positions


def patients_by_id(ids: str | Iterable[object], patients: pd.Index) -> Index:
    """Positions of the patients with these ids, in the order given.

    Raises:
        ValueError: An id the cohort does not have.
    """
    wanted = [ids] if isinstance(ids, str) else [str(one) for one in ids]
    found = patients.get_indexer(pd.Index(wanted, dtype=object))
    unknown = [one for one, position in zip(wanted, found, strict=True) if position < 0]
    if unknown:
        raise ValueError(f"patient {shorten(unknown)} is not in the cohort")
    return np.asarray(found, dtype=np.intp)


def _check_order(index: pd.Index, patients: pd.Index) -> None:
    """Refuse the index of a Series that names patients in another order; numbers of rows name none."""
    ids = index.astype(str)
    if ids.equals(patients):
        return
    text = index.inferred_type == "string"
    if text or (len(ids) == len(patients) and ids.is_unique and ids.isin(patients).all()):
        series = "series" if text else "series.set_axis(series.index.astype(str))"
        raise ValueError(
            "expected a Series in the order of the cohort's patients, got another index; "
            f"{series}.reindex(cohort.patients) puts it in order"
        )
