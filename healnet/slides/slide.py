"""Whole-slide images through OpenSlide: physical scale, regions, thumbnails, whole arrays, tissue and tiles."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from healnet._files import need, shown
from healnet.slides.tiles import Tiles, tile_grid
from healnet.slides.tissue import Tissue, outline, tissue_mask

__all__ = ["Slide", "magnification_of", "mpp_from_properties"]

Array = np.ndarray[Any, Any]

# A scanner's pixels are 0.1 to 1 micron; 40 leaves room for exported overviews. Beyond it the number is a printer's
# resolution that image software wrote (72 dpi would be 353 microns), or pixels per centimetre in the place of microns.
PLAUSIBLE_MPP = (0.02, 40.0)
SQUARE = (
    1.05  # x and y of scanners differ in the third digit; more is an error in the file, or no scan of pixels
)
FINEST = 0.9  # pixels may be asked for 10 % finer than the slide has them; more would be invented
BLOCK = 2048  # side of the pieces, in source pixels, in which large areas are read: 16 MiB each
MAX_PIXELS = 1 << 28  # of one array: 768 MiB


class Slide:
    """A whole-slide image.

    Coordinates are (x, y) in level-0 pixels, arrays are (h, w, 3) uint8 in RGB, and transparent parts are white. Slides can
    be pickled, and each process opens the file for itself.

    Args:
        path: a file that OpenSlide reads.
        mpp: microns per level-0 pixel, where the file does not say it or says it wrongly.
        name: of the slide; the file's name without its last suffix by default.

    Attributes:
        width: of level 0.
        height: of level 0.
        level_downsamples: how many level-0 pixels a pixel of each level spans.
        mpp: microns per level-0 pixel, from `mpp` or by `mpp_from_properties`; None if nobody says it. It is never guessed.
        magnification: of the objective, from mpp or else as the file says; None if neither is known.
        properties: what the file says, by OpenSlide's names.

    Raises:
        ImportError: OpenSlide is absent.
        FileNotFoundError: no such file.
        ValueError: not a slide, a damaged one, or an mpp that cannot be.

    Example::

        slide = Slide("slide-1.svs")  # Slide("slide-1.svs", mpp=0.25) where the file does not say it
        tissue = slide.tissue()  # tissue.mask, tissue.picture, tissue.area_mm2
        tiles = slide.tiles(size=256, mpp=0.5, tissue=tissue)  # tiles.coords, tiles.footprint
        pixels = tiles[0]  # (3, 256, 256) uint8
        overview = slide.as_array(mpp=8.0)  # (h, w, 3) uint8
    """

    def __init__(self, path: str | Path, mpp: float | None = None, name: str | None = None) -> None:
        self.path = Path(path)
        self.name = self.path.stem if name is None else name
        self._handle: Any = None
        self._owner = 0
        if not self.path.exists():
            raise FileNotFoundError(f"{shown(self.path)}: no such slide")
        handle = self._opened()
        self.width, self.height = (int(n) for n in handle.dimensions)
        self.level_downsamples = tuple(float(d) for d in handle.level_downsamples)
        self.properties: dict[str, str] = dict(handle.properties)
        if mpp is not None and not PLAUSIBLE_MPP[0] <= mpp <= PLAUSIBLE_MPP[1]:
            raise ValueError(
                f"{shown(self.path)}: expected mpp in microns per level-0 pixel, from {PLAUSIBLE_MPP[0]} to "
                f"{PLAUSIBLE_MPP[1]}, got {mpp}"
            )
        self.mpp = float(mpp) if mpp is not None else mpp_from_properties(self.properties)
        self.magnification = _magnification(self.mpp, self.properties)

    def __repr__(self) -> str:
        return f"Slide({self.name!r}, {self.width} x {self.height}, mpp={self.mpp})"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_handle": None, "_owner": 0}

    def __enter__(self) -> Slide:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        if self._handle is not None and self._owner == os.getpid():
            self._handle.close()
        self._handle = None

    def region(self, x: float, y: float, width: int, height: int, mpp: float | None = None) -> Array:
        """A rectangle from level-0 (x, y), of `width` x `height` pixels of `mpp` microns (default: level-0 pixels).

        What lies beyond the slide is white.

        Raises:
            ValueError: an mpp finer than the slide's, an unknown scale, a damaged part of the file.
        """
        return self.scaled_region(x, y, width, height, self.downsample(mpp))

    def as_array(self, mpp: float | None = None) -> Array:
        """The whole slide at `mpp` microns per pixel (default: its own), for raw-pixel encoders.

        Read piece by piece from the level just finer and averaged over area, so that memory is that of the result.

        Raises:
            ValueError: as `region`, and a result of over 268 million pixels.
        """
        return self._whole(self.downsample(mpp))[0]

    def thumbnail(self, max_size: int = 1024) -> Array:
        """The whole slide with its longer side at most `max_size` pixels; needs no mpp."""
        return self._whole(max(1.0, max(self.width, self.height) / max_size))[0]

    def tissue(
        self,
        mpp: float = 8.0,
        *,
        opening: float = 8.0,
        closing: float = 16.0,
        min_area: float = 1e4,
        min_hole: float = 1e4,
        threshold: float | None = None,
    ) -> Tissue:
        """Find the tissue, on a picture of `mpp` microns per pixel; see `tissue_mask` for how.

        Args:
            mpp: of the mask.
            opening: radius in microns.
            closing: radius in microns.
            min_area: of a piece, in square microns.
            min_hole: of a hole that stays one, in square microns.
            threshold: a saturation from 0 to 1 instead of Otsu's.

        Raises:
            ValueError: the slide's scale is unknown.
        """
        own = self._known_mpp()
        # A slide coarser than the mask's pixels is an overview already.
        rgb, scale = self._whole(max(1.0, mpp / own))
        pixel = own * own * scale[0] * scale[1]
        mask, threshold = tissue_mask(
            rgb,
            opening=opening / mpp,
            closing=closing / mpp,
            min_area=min_area / pixel,
            min_hole=min_hole / pixel,
            threshold=threshold,
        )
        return Tissue(mask, scale, float(mask.sum() * pixel / 1e6), threshold, outline(rgb, mask))

    def tiles(
        self,
        size: int = 256,
        mpp: float | None = 0.5,
        overlap: int = 0,
        tissue_fraction: float = 0.1,
        tissue: Tissue | None = None,
    ) -> Tiles:
        """Square tiles of `size` pixels of `mpp` microns (None: level-0 pixels) that hold enough tissue.

        Args:
            size: side length in pixels of the tile.
            mpp: microns per pixel of the tile.
            overlap: of neighbours, in pixels of the tile.
            tissue_fraction: least part of a tile that is tissue; 0 takes every tile and looks for no tissue.
            tissue: a mask found before or made by the user; by default `tissue()` is asked.

        Raises:
            ValueError: as `region`, an overlap that is not in 0..size-1, a fraction that is not in 0..1.
        """
        if size < 1 or not 0 <= overlap < size or not 0 <= tissue_fraction <= 1:
            raise ValueError(
                "expected size >= 1, 0 <= overlap < size and 0 <= tissue_fraction <= 1, "
                f"got size {size}, overlap {overlap}, tissue_fraction {tissue_fraction}"
            )
        downsample = self.downsample(mpp)
        footprint, stride = max(1, round(size * downsample)), max(1, round((size - overlap) * downsample))
        coords = tile_grid(self.width, self.height, footprint, stride)
        if tissue_fraction > 0:
            tissue = self.tissue() if tissue is None else tissue
            coords = coords[tissue.fraction(coords, footprint) >= tissue_fraction]
        return Tiles(self, coords, size, footprint, overlap, mpp, tissue)

    def scaled_region(
        self, x: float, y: float, width: int, height: int, downsample: float | tuple[float, float]
    ) -> Array:
        """A rectangle from level-0 (x, y), of `width` x `height` pixels of `downsample` level-0 pixels each (along x and y).

        Reads the coarsest level that is fine enough and averages over area; if that is off a level's own grid by less than
        one pixel, it copies.
        """
        along_x, along_y = (downsample, downsample) if isinstance(downsample, int | float) else downsample
        finest = min(along_x, along_y) * 1.01  # levels' downsamples are rounded: 2.0005 for 2
        level = max((d, i) for i, d in enumerate(self.level_downsamples) if d <= finest or i == 0)[1]
        own = self.level_downsamples[level]
        source = (width * along_x / own, height * along_y / own)
        if abs(source[0] - width) < 1 and abs(source[1] - height) < 1:
            return _on_white(self._read(round(x), round(y), level, width, height))
        left, top = math.floor(x / own), math.floor(y / own)
        box = (x / own - left, y / own - top, x / own - left + source[0], y / own - top + source[1])
        image = self._read(round(left * own), round(top * own), level, math.ceil(box[2]), math.ceil(box[3]))
        image = _on_white_image(image)
        filters = need("PIL.Image", "Pillow", "reading slides").Resampling
        how = filters.BOX if min(along_x, along_y) > own else filters.BILINEAR
        return np.array(image.resize((width, height), how, box=box))

    def _whole(self, downsample: float) -> tuple[Array, tuple[float, float]]:
        """The slide at about `downsample`, and the exact one along x and y that fits it into whole pixels."""
        width, height = max(1, round(self.width / downsample)), max(1, round(self.height / downsample))
        if width * height > MAX_PIXELS:
            fits = downsample * math.sqrt(width * height / MAX_PIXELS)
            wanted = (
                f"mpp of at least {fits * self.mpp:.2f}"
                if self.mpp
                else f"a downsample of at least {fits:.1f}"
            )
            raise ValueError(
                f"{shown(self.path)}: {width} x {height} pixels are too many for one array; take {wanted}, or tiles"
            )
        scale = (self.width / width, self.height / height)
        level = max((d for d in self.level_downsamples if d <= min(scale) * 1.01), default=1.0)
        step = max(1, int(BLOCK * level / max(scale)))
        result = np.empty((height, width, 3), np.uint8)
        for top in range(0, height, step):
            for left in range(0, width, step):
                part = result[top : top + step, left : left + step]
                part[:] = self.scaled_region(
                    left * scale[0], top * scale[1], part.shape[1], part.shape[0], scale
                )
        return result, scale

    def downsample(self, mpp: float | None) -> float:
        """Level-0 pixels per pixel of `mpp` microns; 1 for None.

        Raises:
            ValueError: an mpp finer than the slide's, or an unknown scale.
        """
        if mpp is None:
            return 1.0
        own = self._known_mpp()
        if not mpp >= FINEST * own:
            raise ValueError(
                f"{shown(self.path)}: the slide has {own:g} microns per pixel; it cannot give {mpp:g}"
            )
        return mpp / own

    def _known_mpp(self) -> float:
        if self.mpp is None:
            power = self.properties.get("openslide.objective-power")
            raise ValueError(
                f"{shown(self.path)}: the file does not say its microns per pixel"
                + (f" (objective power {power})" if power else "")
                + "; say it yourself: Slide(path, mpp=...)"
            )
        return self.mpp

    def _opened(self) -> Any:
        # A handle inherited by a forked worker shares the parent's file position; two readers would get each other's bytes.
        if self._handle is None or self._owner != os.getpid():
            openslide = need("openslide", "openslide-python openslide-bin", "reading slides")
            try:
                self._handle = openslide.OpenSlide(self.path)
            except openslide.OpenSlideError as error:
                raise ValueError(f"{shown(self.path)}: OpenSlide cannot read this file ({error})") from error
            self._owner = os.getpid()
        return self._handle

    def _read(self, x: int, y: int, level: int, width: int, height: int) -> Any:
        openslide = need("openslide", "openslide-python openslide-bin", "reading slides")
        handle = self._opened()
        try:
            return handle.read_region((x, y), level, (width, height))
        except openslide.OpenSlideError as error:
            self.close()  # OpenSlide answers every later call of a handle that failed with the same error
            raise ValueError(
                f"{shown(self.path)}: damaged at ({x}, {y}), level {level}, {width} x {height} ({error})"
            ) from error


def mpp_from_properties(properties: Mapping[str, str]) -> float | None:
    """Microns per level-0 pixel as the file says it, by the first of these that says something possible.

    ``openslide.mpp-x/-y``; ``aperio.MPP``; ``hamamatsu.XResolution``; ``tiff.XResolution`` with ``tiff.ResolutionUnit``
    (centimetre: 1e4/x, inch: 25400/x). The mean of x and y where both are given. Passed over are values outside 0.02..40,
    resolutions that image software writes for printers (72 dpi = 353 microns), and pixels that are not square. None if
    nothing is left.

    Example:
        >>> mpp_from_properties({"tiff.XResolution": "20000", "tiff.ResolutionUnit": "centimeter"})
        0.5
    """
    unit = {"centimeter": 1e4, "inch": 25400.0}.get(properties.get("tiff.ResolutionUnit", ""), math.nan)
    resolution = (_number(properties, "tiff.XResolution"), _number(properties, "tiff.YResolution"))
    candidates = [
        (_number(properties, "openslide.mpp-x"), _number(properties, "openslide.mpp-y")),
        (_number(properties, "aperio.MPP"),),
        (_number(properties, "hamamatsu.XResolution"),),
        tuple(unit / value if value else math.nan for value in resolution),
    ]
    for values in candidates:
        possible = [value for value in values if PLAUSIBLE_MPP[0] <= value <= PLAUSIBLE_MPP[1]]
        if possible and max(possible) <= SQUARE * min(possible):
            return sum(possible) / len(possible)
    return None


def magnification_of(mpp: float) -> float:
    """The objective that scanners name for a scale: 0.25 -> 40x, 0.5 -> 20x; 10 / mpp if none is within 20 %.

    Example:
        >>> magnification_of(0.2325), magnification_of(0.499), magnification_of(4.0)
        (40.0, 20.0, 2.5)
    """
    exact = 10 / mpp
    nearest = min((80.0, 60.0, 40.0, 20.0, 10.0, 5.0, 2.5, 1.25), key=lambda m: abs(math.log(m / exact)))
    return nearest if abs(math.log(nearest / exact)) < math.log(1.2) else exact


def _magnification(mpp: float | None, properties: Mapping[str, str]) -> float | None:
    if mpp is not None:
        return magnification_of(mpp)
    power = _number(properties, "openslide.objective-power")
    return power if power > 0 else None


def _number(properties: Mapping[str, str], key: str) -> float:
    try:
        return float(properties.get(key, "nan").replace(",", "."))  # some scanners write in their locale
    except ValueError:
        return math.nan


def _on_white_image(image: Any) -> Any:
    white = need("PIL.Image", "Pillow", "reading slides").new("RGB", image.size, (255, 255, 255))
    white.paste(image, mask=image.getchannel("A"))
    return white


def _on_white(image: Any) -> Array:
    return np.array(_on_white_image(image))
