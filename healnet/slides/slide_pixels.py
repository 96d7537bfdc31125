"""Every pixel of a slide as something that is read when it is sliced: the source of `healnet.Pieces`."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from healnet.slides.slide import Slide
from healnet.slides.tissue import Tissue
from healnet.streams import Pieces

__all__ = ["SlidePixels", "slide_pieces"]

Array = np.ndarray[Any, Any]


class SlidePixels:
    """Pixels of a slide, read when they are sliced: float32 from -1 (black) to 1 (white).

    Args:
        slide: Slide to read from.
        mpp: Microns per pixel; the slide's own level 0 by default.

    Attributes:
        shape: (h, w, 3) of the whole.
        scale: Level-0 pixels per pixel, along x and y.

    Raises:
        ValueError: An mpp finer than the slide's, or a slide that does not say its scale.

    Example::

        pixels = SlidePixels(Slide("slide-1.svs"), mpp=1.0)
        pixels[1000:1256, 2000:2256]  # (256, 256, 3)
    """

    def __init__(self, slide: Slide, mpp: float | None = None) -> None:
        self.slide = slide
        downsample = slide.downsample(mpp)
        width, height = max(1, round(slide.width / downsample)), max(1, round(slide.height / downsample))
        self.shape = (height, width, 3)
        self.scale = (slide.width / width, slide.height / height)
        self._lock = threading.Lock()  # OpenSlide's handle is opened on the first read, in whatever thread

    def __getitem__(self, where: tuple[slice, slice]) -> Array:
        (top, bottom, _), (left, right, _) = (
            part.indices(size) for part, size in zip(where, self.shape, strict=False)
        )
        with self._lock:
            region = self.slide.scaled_region(
                left * self.scale[0], top * self.scale[1], right - left, bottom - top, self.scale
            )
        return region.astype(np.float32) / np.float32(127.5) - np.float32(1)


class _TissuePixels:
    """A tissue mask at the pixels of a `SlidePixels`, read when it is sliced."""

    def __init__(self, tissue: Tissue, pixels: SlidePixels) -> None:
        self.shape = pixels.shape[:2]
        self._mask = tissue.mask
        # Pixels of the picture per pixel of the mask, along y and x.
        self._ratio = (tissue.downsample[1] / pixels.scale[1], tissue.downsample[0] / pixels.scale[0])

    def __getitem__(self, where: tuple[slice, slice]) -> Array:
        rows, columns = (
            # The mask's pixel under the middle of each.
            np.minimum(((np.arange(*part.indices(size)) + 0.5) / ratio).astype(np.intp), limit - 1)
            for part, size, ratio, limit in zip(where, self.shape, self._ratio, self._mask.shape, strict=True)
        )
        return np.asarray(self._mask[np.ix_(rows, columns)])


def slide_pieces(
    slide: Slide, mpp: float | None = None, block: int = 512, tissue: Tissue | None = None
) -> Pieces:
    """Every pixel of a slide for a `Stream`, to be encoded by `GridEncoder(channels=3, ndim=2)`.

    Args:
        slide: Slide to read from.
        mpp: Microns per pixel; the slide's own level 0 by default.
        block: Side in pixels of the squares that are read at once; a multiple of the file's own tiles is fastest.
        tissue: Tissue that is looked at; pixels beside it are masked, and blocks without tissue are not read.

    Raises:
        ValueError: As `SlidePixels`.

    Example::

        scan = Stream([slide_pieces(Slide("slide-1.svs"))])
        model = HEALNet({"scan": GridEncoder(channels=3, ndim=2)}, output="cox")
        log_hazard = model({"scan": scan})
    """
    pixels = SlidePixels(slide, mpp)
    return Pieces(pixels, (block, block), mask=None if tissue is None else _TissuePixels(tissue, pixels))
