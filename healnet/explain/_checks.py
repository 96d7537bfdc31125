"""Checks of what explanations are given: modalities by name, scores, patches and their geometry."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from healnet.streams import Stream

__all__ = [
    "check_in_memory",
    "check_inside",
    "finite_scores",
    "modality_names",
    "numbers",
    "patches",
    "rows_of",
]


def modality_names(inputs: Mapping[str, Any], modalities: Iterable[str] | None = None) -> list[str]:
    """The modalities to explain: those named, or all that the inputs have.

    Raises:
        ValueError: A name that the inputs do not have, no modality at all, or one string instead of several names.
    """
    have = [name for name, value in inputs.items() if value is not None]
    if isinstance(modalities, str):
        raise ValueError(
            f"expected modalities as several names, such as [{modalities!r}], got {modalities!r}"
        )
    wanted = have if modalities is None else list(dict.fromkeys(modalities))
    for name in wanted:
        if name not in have:
            raise ValueError(f"modality {name!r}: expected one that the inputs have, {have}")
    if not wanted:
        raise ValueError(f"expected at least one modality to explain, got none; the inputs have {have}")
    return wanted


def check_in_memory(inputs: Mapping[str, Any], modalities: Iterable[str]) -> None:
    """Refuse a `Stream` where all numbers of a modality are needed at once.

    Raises:
        ValueError: A modality that is a `Stream`.
    """
    for name in modalities:
        if isinstance(inputs[name], Stream):
            raise ValueError(
                f"modality {name!r}: expected numbers in memory, got a Stream; attention_scores, write_scores, "
                "gradient_x_input(per_token=True), occlude(groups=...) and shapley_modalities read it in pieces"
            )


def numbers(values: ArrayLike) -> NDArray[np.float64]:
    """Numbers as float64, also of a tensor with a graph, on a GPU or in bfloat16, which NumPy does not read."""
    plain = values.detach().cpu().double() if isinstance(values, Tensor) else values
    return np.asarray(plain, dtype=np.float64)


def finite_scores(scores: ArrayLike) -> NDArray[np.float64]:
    """(n,) float64.

    Raises:
        ValueError: Another number of axes, or a score that is not finite.
    """
    values = numbers(scores)
    if values.ndim != 1:
        raise ValueError(f"expected scores of shape (n,), got {values.shape}")
    if not np.isfinite(values).all():
        wrong = np.flatnonzero(~np.isfinite(values))
        raise ValueError(f"expected finite scores, got {values[wrong[0]]} at position {wrong[0]}")
    return values


def patches(
    coords: ArrayLike, footprint: float, scores: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates (n, 2) and scores (n,) that fit each other.

    Raises:
        ValueError: Coordinates and scores that do not fit each other, or a footprint that is not positive.
    """
    places, values = numbers(coords), finite_scores(scores)
    if places.ndim != 2 or places.shape[1] != 2 or not np.isfinite(places).all():
        raise ValueError(f"expected finite coords of shape (n, 2), got shape {places.shape}")
    if len(places) != len(values):
        raise ValueError(
            f"expected a score for each patch, got {len(places)} coords and {len(values)} scores"
        )
    if not (math.isfinite(footprint) and footprint > 0):
        raise ValueError(f"expected a footprint above 0, in level-0 pixels, got {footprint}")
    return places, values


def check_inside(places: NDArray[np.float64], footprint: float, level0_size: tuple[int, int]) -> None:
    """Refuse patches that do not touch the slide.

    Raises:
        ValueError: Such a patch: coordinates, or a size, of another slide or level.
    """
    width, height = level0_size
    outside = (places >= (width, height)).any(axis=1) | (places + footprint <= 0).any(axis=1)
    if outside.any():
        raise ValueError(
            f"the patch at {places[outside][0].tolist()} lies outside a slide of {width} x {height} level-0 pixels "
            f"({int(outside.sum())} of {len(places)} do): are coordinates and size of one slide, at level 0?"
        )


def rows_of(values: ArrayLike, width: int, what: str) -> NDArray[np.float64]:
    """(r, width), a single row given its axis.

    Raises:
        ValueError: Another shape.
    """
    rows = np.atleast_2d(numbers(values))
    if rows.ndim != 2 or rows.shape[1] != width:
        raise ValueError(f"expected {what} of shape ({width},) or (r, {width}), got {np.shape(values)}")
    return rows
