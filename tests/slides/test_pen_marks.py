"""Ink of every color is found on glass and on tissue's colors, and stained tissue is not taken for it."""

import numpy as np
import pytest

from healnet.slides.pen_marks import hue_saturation_value, pen_mask
from healnet.slides.tissue import find_tissue

INKS = {
    "black": (20, 20, 25),
    "blue": (30, 60, 180),
    "light blue": (110, 132, 205),
    "red": (200, 30, 40),
    "yellow": (240, 225, 60),
    "purple": (95, 35, 150),
    "green": (30, 150, 60),
}
STAINS = {
    "hematoxylin": (110, 70, 150),
    "eosin": (225, 130, 180),
    "dark nuclei": (80, 40, 120),
    "red cells": (190, 60, 80),
    "DAB": (130, 85, 50),
}


def picture(color, grain=0.0, ground=(243, 242, 244), side=(120, 200)):
    draw = np.random.default_rng(0)
    rgb = np.empty((*side, 3))
    rgb[:] = ground
    rgb[40:60, 20:180] = color + draw.normal(0, grain, (20, 160, 1)) + draw.normal(0, 1, (20, 160, 3))
    return np.clip(rgb, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("ink", INKS)
def test_ink_of_any_color_is_pen_and_not_tissue(ink):
    rgb = picture(INKS[ink])
    pen = pen_mask(rgb)
    assert pen[42:58, 22:178].mean() > 0.99
    assert not pen[:30].any()
    assert not pen[70:].any()
    tissue = find_tissue(rgb, (1.0, 1.0), 8.0, opening=8, closing=16, min_area=1e4, min_hole=1e4)
    assert not tissue.mask.any()
    assert tissue.pen_share == 1.0


@pytest.mark.parametrize("stain", STAINS)
def test_stained_tissue_with_its_grain_is_no_pen(stain):
    rgb = picture(STAINS[stain], grain=9.0)
    assert not pen_mask(rgb).any()
    tissue = find_tissue(rgb, (1.0, 1.0), 8.0, opening=8, closing=16, min_area=1e4, min_hole=1e4)
    assert tissue.mask[45:55, 30:170].all()
    assert tissue.pen_share == 0.0


@pytest.mark.parametrize("ink", ["blue", "green", "red", "purple"])
def test_ink_drawn_over_tissue_leaves_the_tissue_beside_it(ink):
    draw = np.random.default_rng(1)
    rgb = np.clip(np.array((200, 120, 170)) + draw.normal(0, 9, (120, 200, 1)), 0, 255).astype(np.uint8)
    rgb = np.broadcast_to(rgb, (120, 200, 3)).copy()
    rgb[50:62, 20:180] = INKS[ink]
    tissue = find_tissue(rgb, (1.0, 1.0), 8.0, opening=8, closing=16, min_area=1e4, min_hole=1e4)
    assert not tissue.mask[52:60, 25:175].any()
    assert tissue.mask[:44].mean() > 0.98
    assert tissue.pen_share == pytest.approx(12 * 160 / (120 * 200), rel=0.5)


def test_specks_of_ink_color_are_too_small():
    rgb = picture((243, 242, 244))
    rgb[10:16, 10:16] = INKS["green"]  # 36 pixels: bile, or dust
    assert not pen_mask(rgb).any()


def test_hue_saturation_and_value_by_hand():
    rgb = np.array([[[255, 0, 0], [0, 128, 0], [0, 0, 64], [100, 100, 100], [0, 0, 0]]], np.uint8)
    hue, saturation, value = hue_saturation_value(rgb)
    assert hue[0, :3].tolist() == [0, 120, 240]
    assert saturation[0].tolist() == [1, 1, 1, 0, 0]
    assert value[0].tolist() == pytest.approx([1, 128 / 255, 64 / 255, 100 / 255, 0])
