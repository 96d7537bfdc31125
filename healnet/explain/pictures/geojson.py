"""Scored patches for QuPath as GeoJSON: every patch, streamed to disk, or the merged regions of high scores."""

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
from healnet.explain._checks import check_inside, finite_scores, patches
from healnet.slides.features.trident_clam_reader import PatchFile
from healnet.slides.slide_bounds import Origin, origin_of
from healnet.slides.tiles import PixelSource

__all__ = ["regions_to_geojson", "to_geojson"]

# Features are put together and written in pieces of this many, so that memory does not grow with the slide.
_CHUNK = 4096
_VERMILION = [213, 94, 0]  # on pink and violet stains well seen
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
    slide: str | PixelSource | PatchFile = "",
    level0_size: tuple[int, int] | None = None,
    origin: Origin = "bounds",
) -> Path:
    """Write patches with their scores as a GeoJSON FeatureCollection (RFC 7946) that QuPath opens over the slide.

    In QuPath: drag the file onto the open slide, or File > Import objects; "Show measurement maps" then colors by any
    measurement. Each patch is a closed square, in level-0 pixels from the top left of what QuPath shows: of a slide that
    states bounds (MIRAX, Leica's SCN) that is the corner of the bounds, so pass `slide` for those. The file appears when it
    is whole: a run that breaks off leaves none, and an older one of that name as it was.

    Args:
        coords: (n, 2) top-left corners (x, y) in level-0 pixels.
        footprint: Side length of a patch in level-0 pixels.
        scores: (n,) finite scores.
        path: File to write.
        name: Name of the score among the measurements; its percentile (0 to 100) stands beside it.
        measurements: Further measurements, (n,) finite each.
        scale: Colors by "percentile" rank or linearly by the "raw" score.
        classification: A class name for all patches.
        object_type: "tile", "detection", "annotation" or "cell".
        slide: The slide, or its feature file by `read_patches`, for its bounds and its name, so that the ids of two slides'
            patches differ; or the name alone, where no bounds are known. The same call gives the same ids.
        level0_size: (width, height) of the slide in level-0 pixels, to cut patches off at its edge.
        origin: Where the file's coordinates count from: "bounds", as QuPath shows the slide, or "level0".

    Raises:
        ValueError: Lengths that differ, a number that is not finite, an unknown object type, two measurements of one name,
            a patch outside the slide, another origin.
        ImportError: matplotlib, which has the colors, is not installed.

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
    slide_name, zero = _placed(slide, origin)
    low, high = (corner - zero for corner in _squares(places, footprint, level0_size))
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
    ends = (0.0, 100.0) if scale == "percentile" or not len(shown) else (shown.min(), shown.max())
    colors = viridis(shown, *ends)
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
            features = _features(low[part], high[part], own, colors[part], tail, slide_name, start)
            file.write((",\n" if start else "\n") + ",\n".join(features))
        file.write("\n]}\n")
    return path


def regions_to_geojson(
    coords: ArrayLike,
    footprint: float,
    scores: ArrayLike,
    path: str | Path,
    *,
    threshold: float = 90.0,
    name: str = "attention",
    classification: str = "high score",
    slide: str | PixelSource | PatchFile = "",
    level0_size: tuple[int, int] | None = None,
    origin: Origin = "bounds",
) -> Path:
    """Write the regions of high-scored patches as a few annotations, where `to_geojson` writes every patch.

    Patches whose percentile reaches the threshold are merged where they touch or overlap; holes stay holes. Tens of
    thousands of squares make QuPath slow, a few outlines do not. Each region says how many patches it holds, their mean and
    highest score, and its area in square level-0 pixels.

    Args:
        coords: (n, 2) top-left corners (x, y) in level-0 pixels.
        footprint: Side length of a patch in level-0 pixels.
        scores: (n,) finite scores.
        path: File to write.
        threshold: Least percentile, from 0 to 100, of a patch that counts.
        name: Name of the score among the measurements.
        classification: Class name of the regions.
        slide: The slide, or its feature file by `read_patches`, for its bounds and its name, so that the ids of two slides'
            regions differ; or the name alone, where no bounds are known. The same call gives the same ids.
        level0_size: (width, height) of the slide in level-0 pixels, to cut regions off at its edge.
        origin: Where the file's coordinates count from: "bounds", as QuPath shows the slide, or "level0".

    Raises:
        ValueError: Lengths that differ, a number that is not finite, a threshold outside 0 to 100, a patch outside the
            slide, another origin.
        ImportError: shapely is not installed.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "slide-1.geojson"
        >>> written = regions_to_geojson([[0, 0], [8, 0], [80, 0]], 8, [3.0, 2.0, 1.0], path, threshold=50)
        >>> (region,) = json.loads(written.read_text())["features"]
        >>> region["properties"]["measurements"]
        {'patches': 2, 'attention mean': 2.5, 'attention max': 3.0, 'area px^2': 128.0}
    """
    try:
        import shapely
        from shapely.geometry.polygon import orient
    except ImportError as error:
        raise ImportError("merging patches needs shapely: pip install healnet[qupath]") from error
    places, values = patches(coords, footprint, scores)
    slide_name, zero = _placed(slide, origin)
    low, high = (corner - zero for corner in _squares(places, footprint, level0_size))
    if not 0 <= threshold <= 100:
        raise ValueError(f"expected a threshold from 0 to 100, as a percentile, got {threshold}")
    chosen = on_scale(values, "percentile") >= threshold
    squares = shapely.box(*low[chosen].T, *high[chosen].T)
    regions = [orient(region) for region in shapely.get_parts(shapely.union_all(squares)) if region.area > 0]
    # Each square lies in one region, and so does a point inside it.
    square, region_of = shapely.STRtree(regions).query(shapely.point_on_surface(squares), predicate="within")
    features = []
    for i, region in enumerate(regions):
        own = values[chosen][square[region_of == i]]
        measured = {
            "patches": len(own),
            f"{name} mean": float(own.mean()),
            f"{name} max": float(own.max()),
            "area px^2": float(region.area),
        }
        rings = [region.exterior, *region.interiors]
        geometry = {
            "type": "Polygon",
            "coordinates": [[[_number(v) for v in p] for p in ring.coords] for ring in rings],
        }
        properties = {
            "objectType": "annotation",
            "isLocked": True,
            "color": _VERMILION,
            "classification": {"name": classification, "color": _VERMILION},
            "measurements": measured,
        }
        identity = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{slide_name}/{i}/{region.wkt}"))
        features.append({"type": "Feature", "id": identity, "geometry": geometry, "properties": properties})
    path = Path(path)
    with atomic_path(path) as partial:
        partial.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")
    return path


def _placed(slide: str | PixelSource | PatchFile, origin: Origin) -> tuple[str, NDArray[np.float64]]:
    """A slide's name, and the level-0 place that a file's coordinates count from."""
    bounds = None if isinstance(slide, str) else slide.bounds
    zero = np.array(origin_of(bounds, origin), np.float64)
    if isinstance(slide, str):
        return slide, zero
    return slide.slide if isinstance(slide, PatchFile) else slide.name, zero


def _squares(
    places: NDArray[np.float64], footprint: float, level0_size: tuple[int, int] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(n, 2) top-left and bottom-right corners, cut off at the slide's edge where its size is given."""
    if level0_size is None:
        return places, places + footprint
    check_inside(places, footprint, level0_size)
    return np.maximum(places, 0), np.minimum(places + footprint, level0_size)


def _features(
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    columns: Mapping[str, NDArray[np.float64]],
    colors: NDArray[np.uint8],
    tail: str,
    slide: str,
    first: int,
) -> Iterator[str]:
    """One feature's text after another, put together by hand: `json.dumps` of nested dictionaries is four times as slow."""
    keys = [json.dumps(key) for key in columns]
    rows = zip(low.tolist(), high.tolist(), colors.tolist(), *columns.values(), strict=True)
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
