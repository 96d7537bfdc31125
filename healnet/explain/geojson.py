"""Scored patches for QuPath: GeoJSON, streamed to disk."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from healnet._files import atomic_path
from healnet._plotting import on_scale, viridis
from healnet.explain._checks import finite_scores, patches

__all__ = ["to_geojson"]

# Features are put together and written in pieces of this many, so that memory does not grow with the slide.
_CHUNK = 4096
_OBJECT_TYPES = ("annotation", "detection", "tile", "cell")


def to_geojson(
    coords: ArrayLike,
    footprint: float,
    scores: ArrayLike,
    path: str | Path,
    *,
    name: str = "attention",
    measurements: Mapping[str, ArrayLike] | None = None,
    scale: str = "percentile",
    classification: str | None = None,
    object_type: str = "tile",
    slide: str = "",
) -> Path:
    """Write patches with their scores as a GeoJSON FeatureCollection (RFC 7946) that QuPath opens over the slide.

    In QuPath: drag the file onto the open slide, or File > Import objects; "Show measurement maps" then colors by any
    measurement. Coordinates are level-0 pixels with the origin top left, each patch a closed square. The file appears when
    it is whole: a run that breaks off leaves none, and an older one of that name as it was.

    Args:
        coords: (n, 2) top-left corners (x, y) in level-0 pixels.
        footprint: side length of a patch in level-0 pixels.
        scores: (n,) finite.
        path: of the file to write.
        name: of the score among the measurements; its percentile (0 to 100) stands beside it.
        measurements: further ones, (n,) finite each.
        scale: colors by "percentile" rank or linearly by the "raw" score.
        classification: a class name for all patches.
        object_type: "tile", "detection", "annotation" or "cell".
        slide: the slide's name, so that the ids of two slides' patches differ. The same call gives the same ids.

    Raises:
        ValueError: lengths that differ, a number that is not finite, an unknown object type, two measurements of one name.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "slide-1.geojson"
        >>> feature = json.loads(to_geojson([[0, 512]], 256, [0.7], path).read_text())["features"][0]
        >>> feature["geometry"]
        {'type': 'Polygon', 'coordinates': [[[0, 512], [256, 512], [256, 768], [0, 768], [0, 512]]]}
        >>> feature["properties"]["measurements"]
        {'attention': 0.7, 'attention percentile': 100.0}
    """
    places, values = patches(coords, footprint, scores)
    if object_type not in _OBJECT_TYPES:
        raise ValueError(f"expected an object type of {', '.join(_OBJECT_TYPES)}, got {object_type!r}")
    columns = {name: values, f"{name} percentile": np.round(on_scale(values, "percentile"), 2)}
    for key, column in (measurements or {}).items():
        numbers = finite_scores(column)
        if key in columns or len(numbers) != len(values):
            raise ValueError(
                f"measurement {key!r}: expected a new name and {len(values)} numbers, got {len(numbers)} "
                f"beside {list(columns)}"
            )
        columns[key] = numbers
    shown = on_scale(values, scale)
    low, high = (0.0, 100.0) if scale == "percentile" or not len(shown) else (shown.min(), shown.max())
    colors = viridis(shown, low, high)
    labels = (
        {}
        if classification is None
        else {"classification": {"name": classification, "color": [120, 120, 120]}}
    )
    tail = json.dumps({"objectType": object_type, "isLocked": True, **labels})[1:-1]
    path = Path(path)
    with atomic_path(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        for start in range(0, len(places), _CHUNK):
            part = slice(start, start + _CHUNK)
            own = {key: column[part] for key, column in columns.items()}
            features = _features(places[part], footprint, own, colors[part], tail, slide, start)
            file.write((",\n" if start else "\n") + ",\n".join(features))
        file.write("\n]}\n")
    return path


def _features(
    places: NDArray[np.float64],
    footprint: float,
    columns: Mapping[str, NDArray[np.float64]],
    colors: NDArray[np.uint8],
    tail: str,
    slide: str,
    first: int,
) -> Iterator[str]:
    """One feature's text after another, put together by hand: `json.dumps` of nested dictionaries is four times as slow."""
    keys = [json.dumps(key) for key in columns]
    rows = zip(
        places.tolist(), (places + footprint).tolist(), colors.tolist(), *columns.values(), strict=True
    )
    for i, ((x0, y0), (x1, y1), color, *numbers) in enumerate(rows):
        # Numbered, because two patches may lie on one place.
        identity = uuid.uuid5(uuid.NAMESPACE_OID, f"{slide}/{first + i}/{x0}/{y0}")
        a, b, c, d = _number(x0), _number(y0), _number(x1), _number(y1)
        ring = f"[[{a}, {b}], [{c}, {b}], [{c}, {d}], [{a}, {d}], [{a}, {b}]]"
        measured = ", ".join(f"{key}: {float(v)!r}" for key, v in zip(keys, numbers, strict=True))
        yield (
            f'{{"type": "Feature", "id": "{identity}", "geometry": {{"type": "Polygon", "coordinates": [{ring}]}}, '
            f'"properties": {{{tail}, "color": {color}, "measurements": {{{measured}}}}}}}'
        )


def _number(value: float) -> Any:
    return int(value) if value.is_integer() else round(value, 3)
