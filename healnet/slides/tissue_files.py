"""Tissue masks from and to files: QuPath's annotations (GeoJSON) and mask images."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
from PIL import Image
from scipy import ndimage

from healnet._files import atomic_path, shown
from healnet.slides.slide_bounds import Bounds, Origin, origin_of
from healnet.slides.tiles import PixelSource
from healnet.slides.tissue import Tissue

__all__ = ["outlines", "read_tissue", "write_tissue"]

Array = np.ndarray[Any, Any]
Ring = list[tuple[float, float]]

SIDE = 2048  # pixels of the longer side of a mask that is drawn from polygons
MAX_POINTS = 10_000_000  # of all polygons of a file
# Part of the frame by which hand-drawn outlines may cross its edge before it is asked what they are counted from.
OVERHANG = 0.02
MEMBER = "healnet"  # beside the features of files that are written here; QuPath ignores it (RFC 7946, 6.1)


def read_tissue(path: str | Path, slide: PixelSource, origin: Origin | None = None) -> Tissue:
    """A tissue mask that the user made or edited, for ``slide.tiles(tissue=...)``.

    Args:
        path: GeoJSON of polygons in level-0 pixels, as QuPath exports annotations (and `write_tissue` the tissue that was
            found); or an image of the slide at any size, in which tissue is what is not black.
        slide: The slide.
        origin: Where the file counts from, for slides that state bounds (see `Slide.bounds`): "bounds", as QuPath does, or
            "level0". By default as the file says that `write_tissue` wrote, else polygons count from the bounds, and an
            image is of the whole slide or of its bounds by its proportions.

    Raises:
        FileNotFoundError: No such file.
        ValueError: A file of another kind, without polygons, or whose image has other proportions than the slide; polygons
            off the slide; an origin that the file contradicts or does not tell.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{shown(path)}: no such tissue mask")
    if path.suffix.lower() in (".geojson", ".json"):
        scale = max(1.0, max(slide.width, slide.height) / SIDE)
        shape = (max(1, round(slide.height / scale)), max(1, round(slide.width / scale)))
        downsample = (slide.width / shape[1], slide.height / shape[0])
        mask: Any = np.zeros(shape, bool)
        for rings in _on_slide(path, slide, origin):
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
        mask, downsample = _on_whole_slide(mask, _frame(path, mask, slide, origin), slide)
    area = math.nan if slide.mpp is None else float(mask.sum()) * math.prod(downsample) * slide.mpp**2 / 1e6
    return Tissue(mask, downsample, area, math.nan, np.zeros_like(mask), bounds=slide.bounds)


def write_tissue(path: Path, tissue: Tissue, origin: Origin = "bounds") -> None:
    """Write the outlines of the tissue as QuPath annotations, one polygon with its holes for each piece.

    Reading the file again gives the same mask, on the grid that it was found on.

    Args:
        path: File to write.
        tissue: The tissue. Of a slide that states bounds, `Tissue.bounds` has them.
        origin: "bounds", as QuPath shows the slide, or "level0", as QuPath does with ``--no-crop``. Where the two differ the
            file says which it is.

    Raises:
        ValueError: Another origin.
    """
    scale, zero = np.asarray(tissue.downsample), np.asarray(origin_of(tissue.bounds, origin))
    features = [
        {
            "type": "Feature",
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"tissue {number}")),
            "geometry": {
                "type": "Polygon",
                "coordinates": [(np.asarray(ring) * scale - zero).round(2).tolist() for ring in rings],
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
    collection: dict[str, Any] = {"type": "FeatureCollection", "features": features}
    if origin_of(tissue.bounds, "bounds") != (0, 0):
        collection[MEMBER] = {"origin": zero.tolist()}
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(collection))


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


def _on_slide(path: Path, slide: PixelSource, origin: Origin | None) -> list[list[Array]]:
    """The polygons of a file in level-0 pixels."""
    polygons, stated = _polygons(path)
    possible = [origin_of(slide.bounds, one) for one in ((origin,) if origin else get_args(Origin))]
    if stated is not None and stated not in possible:
        places = " or ".join(str(list(zero)) for zero in possible)
        raise ValueError(
            f"{shown(path)}: expected coordinates that count from level-0 {places}, got a file that states {list(stated)}"
        )
    zero = possible[0] if stated is None else possible[possible.index(stated)]
    doubtful = stated is None and origin is None and zero != (0, 0)
    size = np.asarray(slide.bounds[2:] if zero == slide.bounds[:2] else (slide.width, slide.height))
    for rings in polygons:
        low, high = rings[0].min(axis=0), rings[0].max(axis=0)
        off = bool((high <= 0).any() or (low >= size).any())
        if off or (doubtful and bool(((low < -OVERHANG * size) | (high > (1 + OVERHANG) * size)).any())):
            hint = '; pass origin="level0" if it counts from the corner of level 0' if doubtful else ""
            raise ValueError(
                f"{shown(path)}: expected polygons within {size[0]} x {size[1]} pixels from level-0 {list(zero)}, "
                f"got one from {low.tolist()} to {high.tolist()}{hint}"
            )
    return [[ring + zero for ring in rings] for rings in polygons]


def _frame(path: Path, mask: Array, slide: PixelSource, origin: Origin | None) -> Bounds:
    """The part of the slide that an image shows, as the user says or by its proportions."""
    whole = (0, 0, slide.width, slide.height)
    frames = {"bounds": slide.bounds, "level0": whole}
    possible = set(frames.values()) if origin is None else {frames[origin]}
    height, width = mask.shape
    fits = [f for f in possible if abs(math.log(f[2] / width * height / f[3])) <= 2 / min(mask.shape)]
    if not fits:
        parts = [f"the whole slide of {slide.width} x {slide.height}"] if whole in possible else []
        parts += [f"its bounds of {f[2]} x {f[3]}" for f in possible if f != whole]
        raise ValueError(
            f"{shown(path)}: expected an image of {' or of '.join(parts)} pixels, got {width} x {height}"
        )
    if len(fits) > 1:
        raise ValueError(
            f'{shown(path)}: expected origin="level0" for an image of the whole slide or origin="bounds" for one of its '
            "bounds, whose proportions are alike"
        )
    return fits[0]


def _on_whole_slide(mask: Array, frame: Bounds, slide: PixelSource) -> tuple[Array, tuple[float, float]]:
    """A mask of a part of the slide on a grid over all of it, and level-0 pixels per pixel of that grid along x and y."""
    places, grid, known = [], [], []
    for size, start, part, pixels in (
        (slide.height, frame[1], frame[3], mask.shape[0]),
        (slide.width, frame[0], frame[2], mask.shape[1]),
    ):
        count = max(1, round(size * pixels / part))
        middle = (np.arange(count) + 0.5) * size / count
        at = np.floor((middle - start) * pixels / part).astype(np.intp)
        known.append((at >= 0) & (at < pixels))
        places.append(np.clip(at, 0, pixels - 1))
        grid.append(size / count)
    return mask[np.ix_(*places)] & known[0][:, None] & known[1], (grid[1], grid[0])


def _polygons(path: Path) -> tuple[list[list[Array]], tuple[float, float] | None]:
    """The polygons of a GeoJSON file, each as its rings (n, 2), and the level-0 place that it says it counts from."""
    expected = "expected GeoJSON with polygons in level-0 pixels"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        features = content if isinstance(content, list) else content.get("features", [content])
        origin = None if isinstance(content, list) else content.get(MEMBER, {}).get("origin")
        stated = None if origin is None else (float(origin[0]), float(origin[1]))
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
    closed = [
        [ring if (ring[0] == ring[-1]).all() else np.vstack((ring, ring[:1])) for ring in rings]
        for rings in found
    ]
    return closed, stated
