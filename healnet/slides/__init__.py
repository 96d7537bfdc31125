"""One slide: pixels, tissue and tiles; patch features out (TRIDENT's or CLAM's layout) and in (TRIDENT, CLAM)."""

from healnet.slides.extraction.feature_extraction import extract_features
from healnet.slides.extraction.quality_picture import quality_picture
from healnet.slides.features.trident_clam_reader import PatchFile, read_patches
from healnet.slides.quality_table import SlideResult
from healnet.slides.slide import Slide
from healnet.slides.slide_pixels import SlidePixels, slide_pieces
from healnet.slides.tiles import Tiles
from healnet.slides.tissue import Tissue
from healnet.slides.tissue_files import read_tissue, write_tissue

__all__ = [
    "PatchFile",
    "Slide",
    "SlidePixels",
    "SlideResult",
    "Tiles",
    "Tissue",
    "extract_features",
    "quality_picture",
    "read_patches",
    "read_tissue",
    "slide_pieces",
    "write_tissue",
]
