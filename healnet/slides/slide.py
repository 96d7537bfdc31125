"""Read whole-slide images: regions, thumbnails and whole arrays at a physical scale; tissue and tiles."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openslide
from PIL import Image

from healnet._files import shown
from healnet.slides.ome_zarr import is_zarr
from healnet.slides.slide_bounds import bounds_from_properties
from healnet.slides.slide_files import slide_stem
from healnet.slides.slide_readers import image_properties, open_slide_file
from healnet.slides.slide_scale import PLAUSIBLE_MPP, magnification_of, mpp_from_properties, objective_power
from healnet.slides.tiles import Tiles, tile_grid
from healnet.slides.tissue import Segmenter, Tissue, find_tissue

__all__ = ["Slide"]

Array = np.ndarray[Any, Any]

# The least ratio of a requested mpp to the slide's: 10% finer is rounding, more would be invented.
FINEST = 0.9
BLOCK = 2048  # side of the pieces, in source pixels, in which large areas are read: 16 MiB each
MAX_PIXELS = 1 << 28  # of one array: 768 MiB
# Source pixels that are read for one overview. A slide without coarse levels has 4e9 at most (40 seconds); a small file may
# claim 4e10.
MAX_OVERVIEW = 1 << 33
OPAQUE = 0xFF000000  # the least pixel, as a number, of full alpha
LEGIBLE = 600  # pixels of the longer side of a picture of a slide, at least


class Slide:
    """A whole-slide image, or a plain PNG, TIFF or JPEG image.

    Coordinates are (x, y) in level-0 pixels, arrays are (h, w, 3) uint8 in RGB, and transparent parts are white. Slides can
    be pickled, and each process opens the file for itself.

    Args:
        path: File that OpenSlide reads (of a DICOM slide, any one of its files), folder of an OME-Zarr slide (see `OmeZarr`;
            needs ``pip install "healnet[zarr]"``), OME-TIFF of red, green and blue in one page or three, with levels in
            SubIFDs (``"healnet[tiff]"`` for JPEG and LZW), or an image that fits into memory.
        mpp: Microns per level-0 pixel, where the file does not say it or says it wrongly.
        name: Name of the slide; by default the file's name without its last suffix, the folder's without ``.ome.zarr``.

    Attributes:
        width: Width of level 0.
        height: Height of level 0.
        level_downsamples: Level-0 pixels per pixel of each level, along one axis.
        mpp: Microns per level-0 pixel, from `mpp` or by `mpp_from_properties`; None if unknown. It is never guessed.
        magnification: Power of the objective, from mpp or else as the file says; None if neither is known.
        properties: Statements of the file about itself, by OpenSlide's names.
        bounds: Left, top, width and height of the part that was scanned, in level-0 pixels; the whole slide but for files
            that state bounds (MIRAX, Leica's SCN). QuPath shows that part alone.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not a slide, a damaged one, channels of fluorescence, 16 bits a color, or an mpp that cannot be.
        ImportError: A package that unpacks this file is not installed.

    Example::

        slide = Slide("slide-1.svs")  # Slide("slide-1.svs", mpp=0.25) where the file does not say it
        tissue = slide.tissue()  # tissue.mask, tissue.area_mm2
        tiles = slide.tiles(size=256, mpp=0.5, tissue=tissue)  # tiles.coords, tiles.footprint
        pixels = tiles[0]  # (3, 256, 256) uint8
        overview = slide.as_array(mpp=8.0)  # (h, w, 3) uint8
    """

    def __init__(self, path: str | Path, mpp: float | None = None, name: str | None = None) -> None:
        self.path = Path(path)
        self.name = slide_stem(self.path) if name is None else name
        self._handle: Any = None
        self._owner = 0
        if not self.path.exists():
            raise FileNotFoundError(f"{shown(self.path)}: no such slide")
        if not self.path.is_file() and not is_zarr(self.path):  # a pipe would wait for its writer for ever
            raise ValueError(
                f"{shown(self.path)}: expected a regular file or an OME-Zarr folder, got another folder, pipe or device"
            )
        handle = self._opened()
        self.width, self.height = (int(n) for n in handle.dimensions)
        self.level_downsamples = tuple(float(d) for d in handle.level_downsamples)
        self.properties: dict[str, str] = dict(handle.properties) or image_properties(self.path)
        self.bounds = bounds_from_properties(self.properties, (self.width, self.height))
        if mpp is not None and not PLAUSIBLE_MPP[0] <= mpp <= PLAUSIBLE_MPP[1]:
            raise ValueError(
                f"{shown(self.path)}: expected mpp in microns per level-0 pixel, from {PLAUSIBLE_MPP[0]} to "
                f"{PLAUSIBLE_MPP[1]}, got {mpp}"
            )
        self.mpp = float(mpp) if mpp is not None else mpp_from_properties(self.properties)
        self.magnification = (
            objective_power(self.properties) if self.mpp is None else magnification_of(self.mpp)
        )

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
            ValueError: An mpp finer than the slide's, an unknown scale, a damaged part of the file.
        """
        return self.scaled_region(x, y, width, height, self.downsample(mpp))

    def as_array(self, mpp: float | None = None) -> Array:
        """The whole slide at `mpp` microns per pixel (default: its own), for raw-pixel encoders.

        Read piece by piece from the level just finer and averaged over area, so that memory is that of the result.

        Raises:
            ValueError: As `region`, and a result of over 268 million pixels.
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
        pen: bool = True,
        segment: Segmenter | None = None,
    ) -> Tissue:
        """Find the tissue, on a picture of `mpp` microns per pixel; see `tissue_mask` for how.

        Args:
            mpp: Microns per pixel of the mask.
            opening: Radius of the opening in microns; 0 leaves it out.
            closing: Radius of the closing in microns; 0 leaves it out.
            min_area: Least area of a piece, in square microns; 0 keeps all.
            min_hole: Least area of a hole that stays one, in square microns; 0 keeps all holes, infinity fills all.
            threshold: A saturation from 0 to 1 instead of Otsu's; with `segment`, a probability instead of 0.5.
            pen: Look for pen marks, which are never tissue.
            segment: Function that finds the tissue, instead of saturation: from a (h, w, 3) uint8 picture of the slide
                and its microns per pixel, about `mpp`, to (h, w) bool, or probabilities from 0 to 1.

        Raises:
            ValueError: The slide's scale is unknown; a result of `segment` that is no mask of the picture.

        Example::

            slide.tissue(mpp=2.0, segment=lambda rgb, mpp: network(rgb), pen=False, opening=0, closing=0)
        """
        own = self.known_mpp()
        # A slide coarser than the mask's pixels is an overview already.
        downsample = max(1.0, mpp / own)
        # A small slide is read finer, so that its picture can be looked at as well and it need not be read twice.
        times = min(int(downsample), math.ceil(LEGIBLE * downsample / max(self.width, self.height)))
        rgb, scale = self._whole(downsample, times)
        tissue = find_tissue(
            np.asarray(Image.fromarray(rgb).reduce(times)),
            (scale[0] * times, scale[1] * times),
            own,
            opening=opening,
            closing=closing,
            min_area=min_area,
            min_hole=min_hole,
            threshold=threshold,
            pen=pen,
            segment=segment,
        )
        return replace(tissue, rgb=rgb, bounds=self.bounds)

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
            size: Side length in pixels of the tile.
            mpp: Microns per pixel of the tile.
            overlap: Overlap of neighbors, in pixels of the tile.
            tissue_fraction: Least part of a tile that is tissue; 0 takes every tile and looks for no tissue.
            tissue: A mask found before or made by the user; by default that of `tissue()`.

        Raises:
            ValueError: As `region`, an overlap that is not in 0..size-1, a fraction that is not in 0..1.
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
            return np.array(self._read(round(x), round(y), level, width, height))
        left, top = math.floor(x / own), math.floor(y / own)
        box = (x / own - left, y / own - top, x / own - left + source[0], y / own - top + source[1])
        image = self._read(round(left * own), round(top * own), level, math.ceil(box[2]), math.ceil(box[3]))
        times = round(source[0] / width)
        if box == (0.0, 0.0, float(width * times), float(height * times)):
            return np.array(image.reduce(times))  # the same mean, a third of the time
        filters = Image.Resampling
        how = filters.BOX if min(along_x, along_y) > own else filters.BILINEAR
        return np.array(image.resize((width, height), how, box=box))

    def _whole(self, downsample: float, times: int = 1) -> tuple[Array, tuple[float, float]]:
        """The slide at about `downsample` / `times`, and the exact downsample along x and y.

        That is the one that fits the slide into whole pixels of `downsample`, each of `times` x `times` pixels.
        """
        width, height = (times * max(1, round(side / downsample)) for side in (self.width, self.height))
        downsample /= times
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
        if self.width * self.height / level**2 > MAX_OVERVIEW:
            raise ValueError(
                f"{shown(self.path)}: expected a coarse level for an overview of {self.width} x {self.height} pixels, "
                f"got downsamples {', '.join(f'{d:g}' for d in self.level_downsamples)}"
            )
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
            ValueError: An mpp finer than the slide's, or an unknown scale.
        """
        if mpp is None:
            return 1.0
        own = self.known_mpp()
        if not mpp >= FINEST * own:
            raise ValueError(
                f"{shown(self.path)}: the slide has {own:g} microns per pixel; it cannot give {mpp:g}"
            )
        return mpp / own

    def known_mpp(self, advice: str = "Slide(path, mpp=...)") -> float:
        """Microns per level-0 pixel.

        Args:
            advice: How the caller's user says it where the file does not.

        Raises:
            ValueError: The scale is unknown.
        """
        if self.mpp is None:
            power = self.properties.get("openslide.objective-power")
            raise ValueError(
                f"{shown(self.path)}: the file does not say its microns per pixel"
                + (f" (objective power {power})" if power else "")
                + f"; say it yourself: {advice}"
            )
        return self.mpp

    def _opened(self) -> Any:
        # A handle inherited by a forked worker shares the parent's file position; two readers would get each other's bytes.
        if self._handle is None or self._owner != os.getpid():
            self._handle = open_slide_file(self.path)
            self._owner = os.getpid()
        return self._handle

    def _read(self, x: int, y: int, level: int, width: int, height: int) -> Image.Image:
        """Pixels of one level in RGB; what is transparent is white."""
        handle = self._opened()
        try:
            image = handle.read_region((x, y), level, (width, height))
        except (openslide.OpenSlideError, OSError) as error:
            self.close()  # OpenSlide answers every later call of a handle that failed with the same error
            raise ValueError(
                f"{shown(self.path)}: damaged at ({x}, {y}), level {level}, {width} x {height} ({error})"
            ) from error
        # The bytes of a pixel as one number, whose highest is alpha: far faster than to look through alpha alone.
        if np.asarray(image).view("<u4").min(initial=OPAQUE) >= OPAQUE:
            return image.convert("RGB")
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(image, mask=image.getchannel("A"))
        return white
