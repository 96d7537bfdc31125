"""Patient-level splits stratified by group: the same share of each group on both sides of every fold."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from healnet.data.modalities.modality import Index

__all__ = ["grouped_folds", "stratified_folds", "stratified_holdout"]


def stratified_folds(
    group: ArrayLike, n_splits: int = 5, seed: int = 0, within: ArrayLike | None = None
) -> list[tuple[Index, Index]]:
    """Cross-validation folds: every patient is in exactly one test fold.

    Patients are shuffled within their group and assigned to the folds in turn, group after group, so that the sizes of two
    folds, and their numbers of patients of any one group, differ by at most one.

    Args:
        group: (n,) group of each patient: bool (True = event), integers or text.
        n_splits: Number of folds, at least 2.
        seed: Random seed of the shuffle; the same seed gives the same folds everywhere.
        within: (n,) numbers of the parts each of which gets the folds that it has alone; None for one part.

    Returns:
        `n_splits` pairs (train, test) of sorted positions.

    Raises:
        ValueError: Fewer than 2 folds, or a group of fewer patients than folds.

    Example:
        >>> folds = stratified_folds([True, True, False, False, False, False], n_splits=2)
        >>> [len(test) for _, test in folds]
        [3, 3]
    """
    groups = np.asarray(group)
    part = np.zeros(len(groups)) if within is None else np.asarray(within)
    if (part != part).any():
        raise ValueError("expected a part of each patient in within, got NaN")
    fold = np.empty(len(groups), dtype=np.intp)
    for number in np.unique(part) if len(part) else [0]:
        fold[part == number] = _dealt(groups[part == number], n_splits, seed)
    return [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(n_splits)]


def grouped_folds(
    strata: ArrayLike, groups: ArrayLike, n_splits: int = 5, seed: int = 0
) -> list[tuple[Index, Index]]:
    """Cross-validation folds of whole groups, such as hospitals; scikit-learn's `StratifiedGroupKFold`.

    Args:
        strata: (n,) what should be shared evenly.
        groups: (n,) group of each patient.
        n_splits: Number of folds, at least 2.
        seed: Random seed of the shuffle.

    Returns:
        `n_splits` pairs (train, test) of sorted positions.

    Raises:
        ValueError: Fewer than 2 folds, or fewer groups than folds.

    Example:
        >>> folds = grouped_folds([0, 1, 0, 1, 0, 1], ["a", "a", "b", "b", "c", "c"], n_splits=3)
        >>> sorted(test.tolist() for _, test in folds)
        [[0, 1], [2, 3], [4, 5]]
    """
    from sklearn.model_selection import StratifiedGroupKFold

    codes, names = np.unique(np.asarray(strata), return_inverse=True)[1], np.asarray(groups)
    if n_splits < 2:
        raise ValueError(f"expected n_splits >= 2, got {n_splits}")
    if len(np.unique(names)) < n_splits:
        raise ValueError(f"{n_splits} folds need at least {n_splits} groups, got {len(np.unique(names))}")
    split = StratifiedGroupKFold(n_splits, shuffle=True, random_state=seed).split(codes, codes, names)
    return [(np.sort(train), np.sort(test)) for train, test in split]


def _dealt(groups: NDArray[np.generic], n_splits: int, seed: int) -> Index:
    """(n,) the fold of each patient.

    Raises:
        ValueError: Fewer than 2 folds, or a group of fewer patients than folds.
    """
    if n_splits < 2:
        raise ValueError(f"expected n_splits >= 2, got {n_splits}")
    values, counts = np.unique(groups, return_counts=True)
    for value, count in zip(values, counts, strict=True):
        if count < n_splits:
            raise ValueError(f"{n_splits} folds need at least {n_splits} {_name(value)}, got {count}")
    if not len(groups):
        raise ValueError(f"{n_splits} folds need at least {n_splits} patients, got 0")
    fold = np.empty(len(groups), dtype=np.intp)
    fold[_shuffled(groups, seed)] = np.arange(len(groups)) % n_splits
    return fold


def stratified_holdout(group: ArrayLike, fraction: float = 0.2, seed: int = 0) -> tuple[Index, Index]:
    """One split: (the rest, `fraction` held out), stratified by group. Both are sorted positions.

    Raises:
        ValueError: A fraction outside (0, 1), or one that leaves a side empty.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"expected a fraction between 0 and 1, got {fraction}")
    order = _shuffled(np.asarray(group), seed)
    # Group after group, so a step of `fraction` through the order takes that share of each.
    held = np.diff(np.floor(np.arange(len(order) + 1) * fraction + 0.5)).astype(bool)
    if held.all() or not held.any():
        raise ValueError(f"a fraction of {fraction} of {len(order)} patients leaves one side empty")
    return np.sort(order[~held]), np.sort(order[held])


def _shuffled(groups: NDArray[np.generic], seed: int) -> Index:
    """All positions, those of the largest group value first (events before the censored), shuffled within each group."""
    generator = np.random.default_rng(seed)
    parts = [generator.permutation(np.flatnonzero(groups == value)) for value in np.unique(groups)[::-1]]
    return np.concatenate([np.empty(0, np.intp), *parts])


def _name(group: np.generic) -> str:
    if group.dtype == np.bool_:
        return "patients with an event" if group else "censored patients"
    return f"patients of group {group.item()!r}"
