"""Open the file of a slide with the reader that reads it right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openslide
from PIL import Image, UnidentifiedImageError

from healnet._files import shown
from healnet.slides.ome_zarr import OmeZarr
from healnet.slides.tiff_pages import open_tiff_pages

__all__ = ["image_properties", "open_slide_file"]

IMAGES = ("PNG", "TIFF", "JPEG")  # formats of plain images, which Pillow reads where OpenSlide does not
DESCRIPTION = 270  # tag of TIFF
CACHE = 1 << 27  # bytes of decoded pieces kept: a row of tiles across a slide, which the next row reads again


def open_slide_file(path: Path) -> Any:
    """A reader with OpenSlide's interface: OpenSlide's own, or one for OME-Zarr, for TIFF pages or for a plain image.

    Raises:
        ValueError: No reader takes the file, or what it holds is no slide.
        ImportError: A package that unpacks this file is not installed.
    """
    if path.is_dir():
        return OmeZarr(path)
    try:
        handle = openslide.OpenSlide(path)
    except openslide.OpenSlideError as error:
        return _tiff_pages(path, 0) or _opened_image(path, error)
    if handle.properties.get(openslide.PROPERTY_NAME_VENDOR) == "generic-tiff":
        try:
            pages = _tiff_pages(path, handle.level_count)
        except (ValueError, ImportError):
            handle.close()
            raise
        if pages is not None:
            handle.close()
            return pages
    handle.set_cache(openslide.OpenSlideCache(CACHE))
    return handle


def _tiff_pages(path: Path, levels: int) -> Any:
    try:
        return open_tiff_pages(path, levels)
    except ValueError as error:
        raise ValueError(f"{shown(path)}: {error}") from error


def _opened_image(path: Path, error: Exception) -> Any:
    """A plain image as a slide of one level, held in memory."""
    try:
        with Image.open(path, formats=IMAGES) as image:
            if image.mode.startswith(("I", "F")):  # Pillow would cut off what is above 255
                raise ValueError(f"expected 8 bits a color, got an image of mode {image.mode}")
            return openslide.ImageSlide(image.convert("RGBA"))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as other:
        cause = error if isinstance(other, UnidentifiedImageError) else other
        raise ValueError(f"{shown(path)}: OpenSlide cannot read this file ({cause})") from error


def image_properties(path: Path) -> dict[str, str]:
    """The resolution of a plain image by the names that OpenSlide gives it; Pillow has it in dots per inch."""
    with Image.open(path, formats=IMAGES) as image:
        dpi = image.info.get("dpi")
        tags = getattr(image, "tag_v2", {})
        # Pillow takes it for Latin-1. OME-XML is UTF-8, and its micrometers hold a sign beyond ASCII.
        text = str(tags.get(DESCRIPTION, "")).encode("latin-1", "replace").decode("utf-8", "replace")
        found = {"tiff.ImageDescription": text} if text else {}
    if dpi is None:
        return found
    across, down = (str(float(value)) for value in dpi)
    return found | {"tiff.XResolution": across, "tiff.YResolution": down, "tiff.ResolutionUnit": "inch"}
