"""Ink of every color is found on glass and on tissue's colors, and stained tissue is not taken for it."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from healnet.slides.pen_marks import _inks, hue_saturation_value, pen_mask
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
REAL = Path(__file__).parents[1] / "data" / "real"
# Optical densities of red, green and blue light: Ruifrok and Johnston's hematoxylin, eosin and DAB.
DYES = np.array([(0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78)])


def density(rgb):
    return -np.log10(np.maximum(rgb, 1) / 243)


def color_of(optical_density):
    return np.clip(243 * 10 ** -np.asarray(optical_density), 0, 255)


def overview(name):
    """A whole real slide, (h, w, 3), at 8 microns per pixel."""
    return np.asarray(Image.open(REAL / f"{name}_8mpp.png"))


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


@pytest.mark.parametrize(
    ("color", "strength"),
    [
        ((29, 68, 188), 0.3),  # blue, green and red as measured on slides
        ((31, 140, 115), 0.3),
        ((206, 34, 57), 0.5),
        ((240, 220, 60), 0.3),
        ((240, 130, 40), 0.4),
        ((90, 170, 220), 0.3),
        ((35, 35, 40), 0.6),
        ((95, 35, 150), 1.0),
    ],
)
def test_ink_that_lets_light_through_is_found_over_glass(color, strength):
    pen = pen_mask(picture(color_of(strength * density(color))))
    assert pen[42:58, 22:178].mean() > 0.95
    assert not pen[:34].any()
    assert not pen[66:].any()


@pytest.mark.parametrize(
    ("color", "strength"),
    [
        ((29, 68, 188), 1.0),
        ((31, 140, 115), 0.8),
        ((35, 35, 40), 1.0),
        ((240, 220, 60), 1.5),
        ((90, 170, 220), 1.5),
    ],
)
@pytest.mark.parametrize("name", ["cmu-1-small-region", "tcga-cr-7395-01a-01-ts1"], ids=["cmu", "tcga"])
def test_ink_over_real_tissue_adds_its_density_and_is_found(name, color, strength):
    rgb = overview(name)
    middle = rgb.shape[0] // 2
    stroke = np.zeros(rgb.shape[:2])
    stroke[middle - 20 : middle + 20] = 1
    optical = density(rgb) + strength * ndimage.gaussian_filter(stroke, 1.5)[..., None] * density(color)
    pen = pen_mask(color_of(optical).round().astype(np.uint8))
    within = ndimage.gaussian_filter(rgb.min(axis=2).astype(float), 2)[middle - 16 : middle + 16] < 190
    assert pen[middle - 16 : middle + 16][within].mean() > 0.75
    assert pen[: middle - 30][(rgb[: middle - 30] < 190).any(axis=2)].mean() < 0.02


@pytest.mark.parametrize("blur", [0, 1, 2, 4])
@pytest.mark.parametrize("strength", [0.6, 1.0, 1.5])
def test_no_tissue_of_a_real_slide_is_pen_in_focus_or_out_of_it(blur, strength):
    rgb = overview("tcga-cr-7395-01a-01-ts1")
    rgb = color_of(strength * density(ndimage.gaussian_filter(rgb.astype(float), (blur, blur, 0))))
    assert not pen_mask(rgb.round().astype(np.uint8)).any()


@settings(max_examples=60, deadline=None)
@given(
    amounts=st.tuples(*[st.floats(0, 0.5)] * 3), grain=st.sampled_from([0.0, 9.0]), seed=st.integers(0, 99)
)
@example(amounts=(0.0, 0.5, 0.0), grain=9.0, seed=0)
def test_no_mixture_of_stains_is_pen(amounts, grain, seed):
    optical = np.array(amounts) @ DYES
    draw = np.random.default_rng(seed)
    rgb = color_of(optical) + draw.normal(0, grain, (120, 200, 1)) + draw.normal(0, 0.7, (120, 200, 3))
    # Flat violet of one chroma is purple ink 0.03 beyond that line, which these dyes reach from a mean density of 0.08 on.
    if grain or optical.mean() < 0.075:
        assert not pen_mask(np.clip(rgb, 0, 255).astype(np.uint8)).any()


@pytest.mark.parametrize(
    "color", [(150, 80, 160), (184, 145, 208), (80, 40, 120), (228, 143, 226), (190, 60, 80)]
)
def test_an_even_plane_of_a_stains_color_is_no_pen(color):
    assert not pen_mask(np.full((300, 300, 3), color, np.uint8)).any()


@pytest.mark.parametrize("color", [(222, 80, 106), INKS["purple"]])  # red ink at 0.6 times its strength
def test_flat_red_and_purple_are_pen_as_a_stroke_and_not_as_a_plane(color):
    rgb = np.full((300, 600, 3), 243, np.uint8)
    rgb[20:60] = color
    assert pen_mask(rgb)[22:58].all()
    rgb[20:280] = color
    assert not pen_mask(rgb).any()


def test_purple_is_ink_where_it_is_one_dye_and_tissue_where_stains_mix_in_changing_parts():
    part = np.linspace(0, 1, 200)[:, None]
    rgb = np.full((120, 200, 3), 243, np.uint8)
    rgb[40:80] = color_of(part * (0.7 * DYES[0]) + (1 - part) * (0.2 * DYES[0] + 0.6 * DYES[1])).round()
    assert not pen_mask(rgb).any()
    rgb[40:80] = color_of(0.3 * DYES[0] + 0.4 * DYES[1]).round()
    assert pen_mask(rgb)[40:80, 2:198].all()
    rgb[:, 10:] = 243  # a spot
    assert not pen_mask(rgb).any()


def test_ink_does_not_spread_over_tissue_of_a_hue_like_purple_inks():
    draw = np.random.default_rng(0)
    rgb = np.clip(np.array((150, 66, 183)) + draw.normal(0, 9, (120, 200, 1)), 0, 255).astype(np.uint8)
    rgb[50:70] = INKS["blue"]
    pen = pen_mask(rgb)
    assert pen[51:69].all()
    assert not pen[:45].any()
    assert not pen[75:].any()


def test_gaps_within_a_stroke_are_closed():
    rgb = picture(INKS["green"])
    rgb[:, 100:109] = 243
    assert pen_mask(rgb)[45:55, 22:178].all()


def test_dense_red_ink_may_be_as_grainy_as_a_dry_pen_leaves_it():
    assert pen_mask(picture(color_of(1.5 * density((206, 34, 57))), grain=9.0))[45:55, 25:175].mean() > 0.95


@pytest.mark.parametrize("block", [5, 37, 64])
def test_blocks_leave_no_seam(block, monkeypatch):
    """Strokes of every kind across the seams, on tissue and on glass, are those of the picture in one piece."""
    rng = np.random.default_rng(0)
    rgb = np.full((190, 330, 3), 244, np.int16)
    rgb[20:170, 40:200] = (200, 110, 170)
    for row, ink in enumerate([(20, 20, 25), (30, 160, 60), (200, 30, 40), (110, 40, 150), (240, 220, 60)]):
        rgb[10 + 35 * row : 24 + 35 * row, 20:310] = ink
    rgb[..., :] += rng.integers(-3, 4, (*rgb.shape[:2], 1), dtype=np.int16)
    rgb = np.clip(rgb, 0, 255).astype(np.uint8)
    stained = rgb[20:170, 40:200]  # without glass, whose blocks are passed over
    monkeypatch.setattr("healnet.slides.pen_marks.BLOCK", 1000)
    whole, parts = pen_mask(rgb), _inks(stained)
    assert all(whole[12 + 35 * row, 250] for row in range(5))
    monkeypatch.setattr("healnet.slides.pen_marks.BLOCK", block)
    assert np.array_equal(pen_mask(rgb), whole)
    for before, after in zip(parts, _inks(stained), strict=True):
        assert np.array_equal(np.stack(before), np.stack(after))
