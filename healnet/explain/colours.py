"""Scores as colours, without matplotlib: what QuPath files, HTML and pictures share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["percentile_rank", "scaled", "viridis"]

# Nine evenly spaced stops of matplotlib's viridis (Smith and van der Walt, CC0); straight lines between them stay within
# 5/255 of it.
_STOPS = np.array(
    [
        (68, 1, 84),
        (71, 44, 122),
        (59, 81, 139),
        (44, 113, 142),
        (33, 144, 141),
        (39, 173, 129),
        (92, 200, 99),
        (170, 220, 50),
        (253, 231, 37),
    ],
    dtype=np.float64,
)


def percentile_rank(scores: ArrayLike) -> NDArray[np.float64]:
    """Each score's place among all, from 0 (lowest) to 1 (highest); ties share the mean of their places, one score gets 1.

    Example:
        >>> percentile_rank([0.1, 5.0, 0.1, 90.0]).tolist()
        [0.16666666666666666, 0.6666666666666666, 0.16666666666666666, 1.0]
    """
    values = finite_scores(scores)
    if values.size < 2:
        return np.ones_like(values)
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    mean_rank = count.cumsum() - (count + 1) / 2  # 0-based
    return np.asarray(mean_rank[place.reshape(-1)] / (len(values) - 1), dtype=np.float64)


def scaled(scores: ArrayLike, scale: str = "percentile") -> NDArray[np.float64]:
    """Scores on [0, 1]: by "percentile" rank, or "raw", linear from the smallest to the largest (all 1 where equal).

    Raises:
        ValueError: another scale, scores that are not finite or not (n,).
    """
    if scale == "percentile":
        return percentile_rank(scores)
    if scale != "raw":
        raise ValueError(f"expected scale 'percentile' or 'raw', got {scale!r}")
    values = finite_scores(scores)
    span = np.ptp(values) if values.size else 0.0
    return (values - values.min()) / span if span > 0 else np.ones_like(values)


def viridis(fractions: ArrayLike) -> NDArray[np.uint8]:
    """(n,) numbers in [0, 1] as (n, 3) red, green, blue; dark violet is low, yellow high, in any kind of colour vision.

    Example:
        >>> viridis([0.0, 1.0]).tolist()
        [[68, 1, 84], [253, 231, 37]]
    """
    at = np.clip(np.asarray(fractions, dtype=np.float64), 0, 1) * (len(_STOPS) - 1)
    stops = np.arange(len(_STOPS))
    return np.stack([np.interp(at, stops, channel) for channel in _STOPS.T], axis=-1).round().astype(np.uint8)


def finite_scores(scores: Any) -> NDArray[np.float64]:
    """(n,) float64.

    Raises:
        ValueError: another number of axes, or a score that is not finite.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"expected scores of shape (n,), got {values.shape}")
    if not np.isfinite(values).all():
        wrong = np.flatnonzero(~np.isfinite(values))
        raise ValueError(f"expected finite scores, got {values[wrong[0]]} at position {wrong[0]}")
    return values
