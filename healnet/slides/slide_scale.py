"""The physical scale of a slide's pixels, as the file's properties state it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from xml.etree import ElementTree

__all__ = ["PLAUSIBLE_MPP", "magnification_of", "mpp_from_properties", "objective_power"]

# A scanner's pixels are 0.1 to 1 micron; 40 allows for exported overviews. Beyond it the number is a printer's
# resolution that image software wrote (72 dpi would be 353 microns), or pixels per centimeter instead of microns.
PLAUSIBLE_MPP = (0.02, 40.0)
# x and y of scanners differ in the third digit; more is an error in the file, or no scan of pixels.
SQUARE = 1.05
# Microns per unit of length in OME-XML (2016-06), by its symbols, for those in which anybody would state a pixel. The micro
# sign is written in two ways.
MICRONS = {
    "pm": 1e-6,
    "Å": 1e-4,
    "nm": 1e-3,
    "µm": 1.0,
    "μm": 1.0,
    "um": 1.0,
    "mm": 1e3,
    "cm": 1e4,
    "m": 1e6,
    "in": 25400.0,
}


def mpp_from_properties(properties: Mapping[str, str]) -> float | None:
    """Microns per level-0 pixel as the file says it, by the first of these that says something possible.

    ``PhysicalSizeX`` of OME-XML in ``tiff.ImageDescription``; ``openslide.mpp-x/-y``; ``aperio.MPP``;
    ``hamamatsu.XResolution``; ``tiff.XResolution`` with ``tiff.ResolutionUnit`` (centimeter: 1e4/x, inch: 25400/x). The
    mean of x and y where both are given. Passed over are values outside 0.02..40, resolutions that image software writes
    for printers (72 dpi = 353 microns), and pixels that are not square. None if
    nothing is left.

    Example:
        >>> mpp_from_properties({"tiff.XResolution": "20000", "tiff.ResolutionUnit": "centimeter"})
        0.5
    """
    unit = {"centimeter": 1e4, "inch": 25400.0}.get(properties.get("tiff.ResolutionUnit", ""), math.nan)
    resolution = (_number(properties, "tiff.XResolution"), _number(properties, "tiff.YResolution"))
    candidates: list[tuple[float, ...]] = [
        # Before `openslide.mpp-x`, which is the TIFF resolution of a plain TIFF file.
        _ome_pixel(properties.get("tiff.ImageDescription", "")),
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


def objective_power(properties: Mapping[str, str]) -> float | None:
    """The magnification of the objective that the file states; None if it states none."""
    power = _number(properties, "openslide.objective-power")
    return power if power > 0 else None


def _ome_pixel(description: str) -> tuple[float, ...]:
    """Width and height in microns of a pixel of the first image in OME-XML; empty where it says none, or is no such text."""
    if "<Pixels" not in description and ":Pixels" not in description:
        return ()
    try:
        root = ElementTree.fromstring(description.strip().strip("\0"))
    except ElementTree.ParseError:
        return ()
    pixels = next((one for one in root.iter() if one.tag.rpartition("}")[2] == "Pixels"), root)
    return tuple(
        _number(pixels.attrib, f"PhysicalSize{axis}")
        * MICRONS.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"), math.nan)
        for axis in "XY"
    )


def _number(properties: Mapping[str, str], key: str) -> float:
    try:
        return float(properties.get(key, "nan").replace(",", "."))  # some scanners write in their locale
    except ValueError:
        return math.nan
