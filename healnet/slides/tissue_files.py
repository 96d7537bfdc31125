"""Tissue masks from and to files: QuPath's annotations (GeoJSON) and mask images."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from healnet._files import atomic_path, shown
from healnet.slides.tiles import PixelSource
from healnet.slides.tissue import Tissue

__all__ = ["outlines", "read_tissue", "write_tissue"]

Array = np.ndarray[Any, Any]
Ring = list[tuple[float, float]]

SIDE = 2048  # pixels of the longer side of a mask that is drawn from polygons
MAX_POINTS = 10_000_000  # of all polygons of a file


def read_tissue(path: str | Path, slide: PixelSource) -> Tissue:
    """A tissue mask that the user made or edited, for ``slide.tiles(tissue=...)``.

    Args:
        path: GeoJSON of polygons in level-0 pixels, as QuPath exports annotations (and `write_tissue` the tissue that was
            found); or an image of the whole slide at any size, in which tissue is what is not black.
        slide: The slide.

    Raises:
        FileNotFoundError: No such file.
        ValueError: A file of another kind, without polygons, or whose image has other proportions than the slide.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{shown(path)}: no such tissue mask")
    if path.suffix.lower() in (".geojson", ".json"):
        scale = max(1.0, max(slide.width, slide.height) / SIDE)
        shape = (max(1, round(slide.height / scale)), max(1, round(slide.width / scale)))
        downsample = (slide.width / shape[1], slide.height / shape[0])
        mask: Any = np.zeros(shape, bool)
        for rings in _polygons(path):
            mask |= _filled(rings, shape, downsample)
    else:
        try:
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))
        except (OSError, ValueError, SyntaxError) as error:
            raise ValueError(
                f"{shown(path)}: expected GeoJSON or an image as tissue mask ({error})"
            ) from error
        mask = pixels.any(axis=2)
        downsample = (slide.width / mask.shape[1], slide.height / mask.shape[0])
        if abs(math.log(downsample[0] / downsample[1])) > 2 / min(mask.shape):
            raise ValueError(
                f"{shown(path)}: expected an image of the whole slide of {slide.width} x {slide.height} pixels, "
                f"got {mask.shape[1]} x {mask.shape[0]}"
            )
    area = math.nan if slide.mpp is None else float(mask.sum()) * math.prod(downsample) * slide.mpp**2 / 1e6
    return Tissue(mask, downsample, area, math.nan, np.zeros_like(mask))


def write_tissue(path: Path, tissue: Tissue) -> None:
    """Write the outlines of the tissue as QuPath annotations, one polygon with its holes for each piece.

    Reading the file again gives the same mask, on the grid that it was found on.
    """
    scale = np.asarray(tissue.downsample)
    features = [
        {
            "type": "Feature",
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"tissue {number}")),
            "geometry": {
                "type": "Polygon",
                "coordinates": [(np.asarray(ring) * scale).round(2).tolist() for ring in rings],
            },
            "properties": {
                "objectType": "annotation",
                "name": f"tissue {number}",
                "classification": {"name": "Tissue", "color": [0, 158, 115]},
                "isLocked": False,
            },
        }
        for number, rings in enumerate(outlines(tissue.mask))
    ]
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def outlines(mask: Array) -> list[list[Ring]]:
    """The borders of a mask's pieces along the edges of its pixels: of each piece the outer ring and then its holes.

    Pixels that touch at a corner alone belong to two pieces. Rings are closed, (x, y) in pixels of the mask.

    Shape:
        mask: (h, w) bool.

    Example:
        >>> outlines(np.array([[True, True]]))
        [[[(0.0, 0.0), (2.0, 0.0), (2.0, 1.0), (0.0, 1.0), (0.0, 0.0)]]]
    """
    labels, _ = ndimage.label(mask)
    outer: dict[int, Ring] = {}
    holes: dict[int, list[Ring]] = {}
    for ring in _rings(mask):
        # The highest of the leftmost corners: right of it a piece begins, or a hole.
        x, y = map(int, min(ring))
        if _signed_area(ring) > 0:
            outer[labels[y, x]] = ring
        else:
            holes.setdefault(labels[y, x - 1], []).append(ring)
    return [[ring, *holes.get(piece, ())] for piece, ring in outer.items()]


def _rings(mask: Array) -> Iterator[Ring]:
    """Closed borders: clockwise, as an image is seen, around pieces, and the other way around holes."""
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    starts, turns = [], []
    for turn, (neighbor, corner) in enumerate(
        (
            (padded[:-2, 1:-1], (0, 0)),  # above: the border runs to the right, then down, left and up
            (padded[1:-1, 2:], (1, 0)),
            (padded[2:, 1:-1], (1, 1)),
            (padded[1:-1, :-2], (0, 1)),
        )
    ):
        rows, columns = np.nonzero(inside & ~neighbor)
        starts.append(np.stack((columns, rows), axis=1) + corner)
        turns.append(np.full(len(rows), turn))
    start, turned = np.concatenate(starts), np.concatenate(turns)
    # Edges in the order of the corner that they start from, and of each the edge that follows.
    keys = start[:, 0] * (len(mask) + 1) + start[:, 1]
    order = np.argsort(keys, kind="stable")
    start, turned, keys = start[order], turned[order], keys[order]
    end = start + np.array(((1, 0), (0, 1), (-1, 0), (0, -1)))[turned]
    follows = np.searchsorted(keys, end[:, 0] * (len(mask) + 1) + end[:, 1])
    # Where two borders meet at a corner, turning right keeps pixels that touch there apart.
    double = keys[follows] == keys[np.minimum(follows + 1, len(keys) - 1)]
    follows += double & (turned[follows] != (turned + 1) % 4) & (follows + 1 < len(keys))
    turning = np.empty(len(keys), bool)
    turning[follows] = turned[follows] != turned
    points = [(x, y) for x, y in start.astype(float).tolist()]
    after, is_corner, seen = follows.tolist(), turning.tolist(), bytearray(len(keys))
    for first in range(len(after)):
        ring: Ring = []
        edge = first
        while not seen[edge]:
            seen[edge] = 1
            if is_corner[edge]:
                ring.append(points[edge])
            edge = after[edge]
        if ring:
            yield from _simple(ring)


def _simple(ring: Ring) -> Iterator[Ring]:
    """A ring cut where it meets itself: what it encloses there is a hole, or are two, that touch at a corner."""
    path: Ring = []
    places: dict[tuple[float, float], int] = {}
    for point in [*ring, ring[0]]:
        if point in places:
            start = places[point]
            yield [*path[start:], point]
            for passed in path[start:]:
                del places[passed]
            del path[start:]
        places[point] = len(path)
        path.append(point)


def _signed_area(ring: Ring) -> float:
    x, y = np.asarray(ring).T
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)


def _filled(rings: list[Array], shape: tuple[int, int], downsample: tuple[float, float]) -> Array:
    """The pixels whose middle lies within a polygon, by the even-odd rule, which leaves its holes out."""
    toggles = np.zeros((shape[0], shape[1] + 1), bool)
    for ring in rings:
        x, y = (ring / downsample).T
        x0, y0, x1, y1 = x[:-1], y[:-1], x[1:], y[1:]
        low = np.clip(np.ceil(np.minimum(y0, y1) - 0.5), 0, shape[0]).astype(int)
        high = np.clip(np.ceil(np.maximum(y0, y1) - 0.5), 0, shape[0]).astype(int)
        for i in np.flatnonzero(high > low):
            rows = np.arange(low[i], high[i])
            at = x0[i] + (rows + 0.5 - y0[i]) * (x1[i] - x0[i]) / (y1[i] - y0[i])
            toggles[rows, np.clip(np.ceil(at - 0.5), 0, shape[1]).astype(int)] ^= True
    return np.asarray(np.logical_xor.accumulate(toggles, axis=1)[:, :-1])


def _polygons(path: Path) -> list[list[Array]]:
    """The polygons of a GeoJSON file, each as its rings (n, 2)."""
    expected = "expected GeoJSON with polygons in level-0 pixels"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        features = content if isinstance(content, list) else content.get("features", [content])
        found: list[list[Array]] = []
        for feature in features:
            geometry = feature.get("geometry", feature)
            parts = {"Polygon": [geometry.get("coordinates")], "MultiPolygon": geometry.get("coordinates")}
            for polygon in parts.get(geometry["type"], []):
                found.append([np.asarray(ring, dtype=np.float64)[:, :2] for ring in polygon])
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise ValueError(f"{shown(path)}: {expected}, got another content ({error})") from error
    points = sum(len(ring) for rings in found for ring in rings)
    if not found or points > MAX_POINTS:
        raise ValueError(f"{shown(path)}: {expected}, got {len(found)} polygons of {points} points")
    if not all(np.isfinite(ring).all() and len(ring) >= 3 for rings in found for ring in rings):
        raise ValueError(
            f"{shown(path)}: {expected}, got a ring of under 3 points, or a point that is not finite"
        )
    return [
        [ring if (ring[0] == ring[-1]).all() else np.vstack((ring, ring[:1])) for ring in rings]
        for rings in found
    ]
