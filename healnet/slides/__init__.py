"""One slide: pixels, tissue and tiles; patch features out (TRIDENT's format) and in (TRIDENT, CLAM)."""

from healnet.slides.feature_extraction import extract_features
from healnet.slides.feature_writer import SlideReport
from healnet.slides.slide import Slide
from healnet.slides.slide_pixels import SlidePixels, slide_pieces
from healnet.slides.tiles import Tiles
from healnet.slides.tissue import Tissue
from healnet.slides.trident_clam_reader import PatchFile, read_patches

__all__ = [
    "PatchFile",
    "Slide",
    "SlidePixels",
    "SlideReport",
    "Tiles",
    "Tissue",
    "extract_features",
    "read_patches",
    "slide_pieces",
]
