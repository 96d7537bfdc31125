"""Tissue is found where it is, and measured exactly."""

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from healnet.slides.tissue import Tissue, find_tissue, otsu_threshold, tissue_mask

GLASS, PURPLE, PALE, INK, PEN = (243, 242, 244), (150, 80, 160), (225, 195, 215), (20, 20, 25), (30, 160, 60)


def picture(*rectangles, shape=(101, 127)):
    rgb = np.empty((*shape, 3), np.uint8)
    rgb[:] = GLASS
    for top, left, bottom, right, color in rectangles:
        rgb[top:bottom, left:right] = color
    return rgb


def test_a_rectangle_of_tissue_is_found_to_the_pixel():
    mask, threshold = tissue_mask(picture((20, 30, 60, 90, PURPLE)), opening=0, closing=0)
    expected = np.zeros((101, 127), bool)
    expected[20:60, 30:90] = True
    # The smoothing by one pixel moves an edge by at most one pixel.
    assert (mask ^ expected)[22:58, 32:88].sum() == 0
    assert (mask ^ expected)[:18].sum() + (mask ^ expected)[62:].sum() == 0
    assert abs(mask.sum() - 2400) < 250
    assert 0.05 <= threshold <= 0.12


@pytest.mark.parametrize(
    ("rectangle", "found"),
    [
        ((20, 30, 60, 90, PALE), True),  # pale stroma
        ((0, 0, 101, 127, PURPLE), True),  # nothing but tissue
        ((20, 30, 60, 90, GLASS), False),  # an empty slide
        ((20, 30, 60, 90, (236, 238, 244)), False),  # tinted glass
        ((20, 30, 60, 90, INK), False),
        ((20, 30, 60, 90, PEN), False),
        ((20, 30, 30, 40, PURPLE), False),  # a speck of 100 pixels
        ((20, 30, 21, 60, PURPLE), False),  # a fibre
    ],
)
def test_what_counts_as_tissue(rectangle, found):
    mask, _ = tissue_mask(picture(rectangle))
    top, left, bottom, right, _ = rectangle
    assert mask[(top + bottom) // 2, (left + right) // 2] == found
    assert found or not mask.any()


def test_small_holes_are_filled_and_large_ones_stay():
    small, large = (30, 30, 38, 38, GLASS), (40, 60, 70, 100, GLASS)
    mask, _ = tissue_mask(picture((10, 10, 90, 120, PURPLE), small, large))
    assert mask[34, 34]
    assert not mask[55, 80]
    mask, _ = tissue_mask(picture((10, 10, 90, 120, PURPLE), small, large), min_hole=10_000)
    assert mask[55, 80]


def test_closing_joins_what_a_crack_parts_and_small_pieces_go():
    rgb = picture((10, 10, 40, 20, PURPLE), (10, 23, 40, 33, PURPLE))
    assert not tissue_mask(rgb, closing=0, min_area=450)[0].any()
    assert tissue_mask(rgb, closing=4, min_area=450)[0][25, 21]


def test_tissue_cut_off_by_the_scan_keeps_its_rim():
    mask, _ = tissue_mask(picture((0, 0, 50, 127, PURPLE)), opening=3, closing=5, min_hole=0)
    assert mask[:48].all()
    mask, _ = tissue_mask(picture((20, 30, 97, 90, PURPLE)), closing=5)
    assert not mask[99:].any()  # and glass between the tissue and the border is not closed over


def test_a_threshold_by_the_users_word():
    rgb = picture((20, 30, 60, 90, PALE))  # saturation 0.13
    assert not tissue_mask(rgb, threshold=0.3)[0].any()
    assert tissue_mask(rgb, threshold=0.1)[1] == 0.1


def test_what_is_refused():
    with pytest.raises(
        ValueError, match=r"^expected an RGB picture \(h, w, 3\) of uint8, got float64 of shape \(4, 5, 3\)$"
    ):
        tissue_mask(np.zeros((4, 5, 3)))
    with pytest.raises(ValueError, match=r"^expected a threshold of saturation from 0 to 1, got 8$"):
        tissue_mask(picture(), threshold=8)


def test_otsu_on_a_case_by_hand():
    # Three values: parting {0.1, 0.2} from {0.9} has variance 2*1*(0.15 - 0.9)^2, the other 1*2*(0.1 - 0.55)^2.
    assert 0.2 < otsu_threshold(np.array([0.1, 0.2, 0.9])) < 0.9
    assert otsu_threshold(np.array([])) == 0
    assert otsu_threshold(np.full(5, 0.3)) == 0


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 999),
    x=st.floats(-30, 80),
    y=st.floats(-30, 80),
    footprint=st.floats(0.5, 40),
    scale=st.tuples(st.floats(0.5, 4), st.floats(0.5, 4)),
)
def test_the_fraction_is_the_area_under_the_mask(seed, x, y, footprint, scale):
    mask = np.random.default_rng(seed).random((11, 13)) < 0.5
    tissue = Tissue(mask, scale, 0.0, 0.1, np.zeros((11, 13), bool))
    # By hand: the overlap of the square with each pixel of the mask.
    columns = np.clip(
        np.minimum(x + footprint, scale[0] * np.arange(1, 14)) - np.maximum(x, scale[0] * np.arange(13)),
        0,
        None,
    )
    rows = np.clip(
        np.minimum(y + footprint, scale[1] * np.arange(1, 12)) - np.maximum(y, scale[1] * np.arange(11)),
        0,
        None,
    )
    expected = (rows @ mask @ columns) / footprint**2
    assert tissue.fraction(np.array([[x, y]]), footprint)[0] == pytest.approx(expected, abs=1e-9)


# What is on, and what is off


def square_of_tissue():
    rgb = np.full((120, 140, 3), 245, np.uint8)
    rgb[20:80, 20:90] = (200, 90, 160)
    rgb[40:50, 40:60] = 245  # a hole of 200 pixels
    rgb[95:101, 95:102] = (200, 90, 160)  # a piece of 42
    return rgb


FINE = {"opening": 0, "closing": 0, "min_area": 0, "min_hole": 0}


@pytest.mark.parametrize(
    ("options", "hole", "piece"),
    [
        ({"min_hole": 0, "min_area": 0}, True, True),
        ({"min_hole": math.inf, "min_area": 0}, False, True),
        ({"min_hole": 0, "min_area": 64 * 200}, True, False),
    ],
)
def test_holes_and_small_pieces_stay_or_go(options, hole, piece):
    tissue = find_tissue(square_of_tissue(), (16.0, 16.0), 0.5, **(FINE | options))
    assert tissue.mask[45, 50] != hole
    assert tissue.mask[98, 98] == piece
    assert tissue.small[98, 98] != piece
    assert tissue.small.any() != piece
    assert not tissue.small[20:80, 20:90].any()


def test_the_pen_search_can_be_left_out():
    rgb = square_of_tissue()
    rgb[20:80, 100:130] = (40, 200, 60)  # green ink
    with_pen, without = (find_tissue(rgb, (16.0, 16.0), 0.5, pen=pen, **FINE) for pen in (True, False))
    assert with_pen.pen[50, 115]
    assert not with_pen.mask[50, 115]
    assert without.mask[50, 115]
    assert (without.pen.any(), without.pen_share) == (False, 0.0)


def test_a_segmenter_finds_the_tissue_at_its_own_scale():
    rgb, seen = square_of_tissue(), []

    def segment(picture, mpp):
        seen.append((picture.shape, mpp))
        picture[:] = 0  # its own copy
        probability = np.zeros(picture.shape[:2], np.float32)
        probability[20:80, 20:90], probability[90:110, 90:110] = 0.6, 0.4
        return probability

    tissue = find_tissue(rgb, (16.0, 16.0), 0.5, segment=segment, **FINE)
    assert seen == [((120, 140, 3), 8.0)]
    assert np.argwhere(tissue.mask).min(0).tolist() == [20, 20]
    assert (int(tissue.mask.sum()), tissue.threshold) == (60 * 70, 0.5)
    assert tissue.area_mm2 == pytest.approx(60 * 70 * 64e-6)
    assert (tissue.rgb == square_of_tissue()).all()
    lower = find_tissue(rgb, (16.0, 16.0), 0.5, segment=segment, threshold=0.3, **FINE)
    assert int(lower.mask.sum()) == 60 * 70 + 400
    plain = find_tissue(rgb, (16.0, 16.0), 0.5, segment=lambda picture, mpp: picture[..., 1] < 200, **FINE)
    assert int(plain.mask.sum()) == 60 * 70 - 200 + 42
    assert math.isnan(plain.threshold)


def test_ink_is_no_tissue_of_a_segmenter_either():
    rgb = square_of_tissue()
    rgb[20:80, 100:130] = (40, 200, 60)
    everything = {"segment": lambda picture, mpp: np.ones(picture.shape[:2], bool)}
    assert not find_tissue(rgb, (16.0, 16.0), 0.5, **everything, **FINE).mask[50, 115]
    assert find_tissue(rgb, (16.0, 16.0), 0.5, pen=False, **everything, **FINE).mask.all()


@pytest.mark.parametrize(
    ("result", "got"),
    [
        (np.zeros((60, 70), bool), "bool of shape (60, 70)"),
        (np.zeros((120, 140), np.uint8), "uint8 of shape (120, 140)"),
        (np.full((120, 140), 255.0), "float64 of shape (120, 140) from 255.0 to 255.0"),
        (np.full((120, 140), np.nan), "float64 of shape (120, 140) from nan to nan"),
    ],
)
def test_what_is_no_mask_of_the_picture_is_refused(result, got):
    text = f"expected of segment bool or probabilities from 0 to 1 of shape (120, 140), got {got}"
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        find_tissue(square_of_tissue(), (16.0, 16.0), 0.5, segment=lambda rgb, mpp: result, **FINE)
    with pytest.raises(ValueError, match=r"^expected a threshold of probability from 0 to 1, got 50$"):
        find_tissue(
            square_of_tissue(), (16.0, 16.0), 0.5, segment=lambda rgb, mpp: result, threshold=50, **FINE
        )
