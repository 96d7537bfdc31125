"""Scores as colours, without matplotlib: what QuPath files, HTML and pictures share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["percentile_rank", "scaled", "viridis"]

# Every eighth step of matplotlib's viridis (Smith and van der Walt, CC0); straight lines between them stay within 3/255
# of it.
# fmt: off
_STOPS = np.array(
    [
        (68, 1, 84), (71, 13, 96), (72, 24, 106), (72, 35, 116), (71, 45, 123),
        (69, 54, 129), (66, 64, 134), (63, 73, 137), (59, 82, 139), (55, 90, 141),
        (51, 99, 141), (47, 106, 142), (44, 114, 142), (41, 122, 142), (38, 129, 142),
        (35, 137, 142), (33, 144, 140), (31, 152, 139), (31, 159, 136), (33, 166, 133),
        (40, 174, 128), (49, 181, 123), (62, 188, 116), (76, 194, 108), (93, 201, 99),
        (110, 206, 88), (130, 211, 76), (150, 216, 63), (171, 220, 50), (192, 223, 36),
        (213, 226, 26), (234, 229, 26), (253, 231, 37),
    ],
    dtype=np.float64,
)
# fmt: on


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
