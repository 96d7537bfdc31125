"""Blur lowers the score, and the score is the variance that SciPy's Laplacian has."""

import numpy as np
from PIL import Image, ImageFilter
from scipy import ndimage

from healnet.slides.sharpness import sharpness


def test_the_score_is_the_variance_of_the_laplacian():
    tile = np.random.default_rng(0).integers(0, 256, (61, 53, 3), dtype=np.uint8)
    gray = np.asarray(Image.fromarray(tile).convert("L"), dtype=float)
    expected = ndimage.laplace(gray)[1:-1, 1:-1].var()
    assert abs(sharpness(tile) / expected - 1) < 1e-5


def test_every_step_of_blur_lowers_it():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    scores = [sharpness(np.asarray(image.filter(ImageFilter.GaussianBlur(r)))) for r in (0, 0.5, 1, 2, 4)]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 100 * scores[-1]


def test_a_tile_without_an_inside_has_none():
    assert sharpness(np.zeros((2, 9, 3), np.uint8)) == 0.0
