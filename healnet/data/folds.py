"""Patient-level splits stratified by event: the same share of events on both sides of every fold."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["stratified_folds", "stratified_holdout"]

Index = NDArray[np.intp]


def stratified_folds(event: ArrayLike, n_splits: int = 5, seed: int = 0) -> list[tuple[Index, Index]]:
    """Cross-validation folds: every patient is in exactly one test fold.

    Patients are shuffled within those with and those without an event, and dealt to the folds in turn, so that fold
    sizes and numbers of events differ by at most one.

    Args:
        event: (n,) bool, True = observed.
        n_splits: number of folds, at least 2.
        seed: of the shuffle; the same seed gives the same folds everywhere.

    Returns:
        `n_splits` pairs (train, test) of sorted positions.

    Raises:
        ValueError: fewer than 2 folds, or fewer events or censored patients than folds where there are any.

    Example:
        >>> folds = stratified_folds([True, True, False, False, False, False], n_splits=2)
        >>> [len(test) for _, test in folds]
        [3, 3]
    """
    labels = np.asarray(event, dtype=np.bool_)
    if n_splits < 2:
        raise ValueError(f"expected n_splits >= 2, got {n_splits}")
    for name, count in (
        ("patients", len(labels)),
        ("patients with an event", int(labels.sum())),
        ("censored patients", int((~labels).sum())),
    ):
        if count < n_splits and (count or name == "patients"):
            raise ValueError(f"{n_splits} folds need at least {n_splits} {name}, got {count}")
    fold = np.empty(len(labels), dtype=np.intp)
    order = _shuffled(labels, seed)
    fold[order] = np.arange(len(labels)) % n_splits
    return [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(n_splits)]


def stratified_holdout(event: ArrayLike, fraction: float = 0.2, seed: int = 0) -> tuple[Index, Index]:
    """One split: (the rest, `fraction` held out), stratified by event. Both are sorted positions.

    Raises:
        ValueError: a fraction outside (0, 1), or one that leaves a side empty.
    """
    labels = np.asarray(event, dtype=np.bool_)
    if not 0 < fraction < 1:
        raise ValueError(f"expected a fraction between 0 and 1, got {fraction}")
    order = _shuffled(labels, seed)
    # Event first, so a step of `fraction` through the order takes that share of the events and of the censored.
    held = np.diff(np.floor(np.arange(len(order) + 1) * fraction + 0.5)).astype(bool)
    if held.all() or not held.any():
        raise ValueError(f"a fraction of {fraction} of {len(order)} patients leaves one side empty")
    return np.sort(order[~held]), np.sort(order[held])


def _shuffled(labels: NDArray[np.bool_], seed: int) -> Index:
    """All positions, those with an event first, shuffled within each group."""
    generator = np.random.default_rng(seed)
    return np.concatenate(
        [generator.permutation(np.flatnonzero(labels)), generator.permutation(np.flatnonzero(~labels))]
    )
