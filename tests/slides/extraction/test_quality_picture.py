"""The picture shows what was taken and what was left out, and its legend names no more than that."""

import errno
import io
import os
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from healnet.slides.extraction.quality_picture import (
    BLURRED,
    PEN,
    PICTURE_SIDE,
    SMALL,
    TISSUE,
    quality_picture,
    write_jpeg,
)
from healnet.slides.tissue import Tissue

RGB = np.full((300, 400, 3), 240, np.uint8)


def tissue(pen=False):
    mask = np.zeros((150, 200), bool)
    mask[50:100, 50:150] = True
    marks = np.zeros_like(mask)
    marks[10:20, 10:40] = pen
    return Tissue(mask, (20.0, 20.0), 1.0, 0.1, marks)


def has(picture, color):
    return bool((picture == color).all(axis=2).any())


def test_the_tissues_outline_lies_where_the_tissue_ends():
    before = RGB.copy()
    picture = quality_picture(RGB, (4000, 3000), tissue=tissue())
    assert np.array_equal(RGB, before)
    green = (picture[:300] == TISSUE).all(axis=2)
    assert green[100, 110:290].all()
    assert green[110:190, 100].all()
    assert not green[104:196, 104:296].any()
    assert (picture[150, 200] == 240).all()
    assert (picture[20, 200] == 248).all()  # paled


def test_tiles_lie_at_their_place_and_blurred_ones_have_their_own_color():
    coords, kept = np.array([[1000, 1000], [2000, 1000]]), np.array([True, False])
    picture = quality_picture(RGB, (4000, 3000), coords=coords, kept=kept, footprint=500)
    black, orange = (picture == 0).all(axis=2), (picture == BLURRED).all(axis=2)
    assert black[100, 100:149].all()
    assert black[100:149, 149].all()
    assert orange[100, 200:249].all()
    assert not black[:300, 160:].any()


def test_the_legend_names_what_is_drawn_and_nothing_else():
    heights = [
        quality_picture(RGB, (4000, 3000), tissue=part, coords=coords, footprint=500, mpp=mpp).shape[0]
        for part, coords, mpp in (
            (None, None, None),
            (tissue(), None, None),
            (tissue(), np.array([[0, 0]]), 0.5),
        )
    ]
    assert heights[0] == 300  # nothing drawn, no legend
    assert heights[0] < heights[1] <= heights[2]
    assert not has(quality_picture(RGB, (4000, 3000), tissue=tissue())[300:], PEN)
    assert has(quality_picture(RGB, (4000, 3000), tissue=tissue(pen=True))[300:], PEN)


def test_pen_marks_are_striped_so_that_their_own_color_stays_visible():
    rgb = RGB.copy()
    rgb[20:40, 20:80] = (30, 150, 60)
    picture = quality_picture(rgb, (4000, 3000), tissue=tissue(pen=True))
    marks = picture[20:40, 20:80]
    striped, own = (marks == PEN).all(axis=2), (marks == (143, 203, 158)).all(axis=2)  # paled by half
    assert (striped ^ own).all()
    assert 0.4 < striped.mean() < 0.6
    assert not has(picture[45:300], PEN)


def test_small_pieces_that_were_left_out_are_framed():
    part = tissue()
    small = np.zeros_like(part.mask)
    small[20:24, 160:164] = True
    shown = quality_picture(RGB, (4000, 3000), tissue=replace(part, small=small))
    frame = (shown[:300] == SMALL).all(axis=2)
    y, x = np.nonzero(frame)
    assert (x.min(), x.max(), y.min(), y.max()) == (316, 331, 36, 51)  # two pixels of the mask around it
    assert not frame[40:48, 320:328].any()
    assert has(shown[300:], SMALL)
    assert not has(quality_picture(RGB, (4000, 3000), tissue=replace(part, small=small & False)), SMALL)


def test_blurred_tiles_are_tinted_and_others_are_not():
    coords, kept = np.array([[1000, 1000], [2000, 1000]]), np.array([True, False])
    picture = quality_picture(RGB, (4000, 3000), coords=coords, kept=kept, footprint=500)
    assert (picture[105:145, 105:145] == 240).all()
    assert np.abs(picture[105:145, 205:245] - (0.6 * 240 + 0.4 * np.array(BLURRED))).max() < 1


def test_tiles_too_small_to_be_told_apart_are_outlined_together():
    y, x = np.mgrid[1000:2000:50, 1000:2000:50]
    picture = quality_picture(RGB, (4000, 3000), coords=np.c_[x.ravel(), y.ravel()], footprint=50)[:300]
    black = (picture == 0).all(axis=2)
    assert black[100, 100:200].all()
    assert black[100:200, 199].all()
    assert not black[101:199, 101:199].any()


@pytest.mark.parametrize("width", [800, 1600])
def test_lines_and_names_grow_with_the_picture_so_that_a_phone_shows_them(width):
    rgb = np.full((100, width, 3), 240, np.uint8)
    mask = np.zeros((100, width), bool)
    mask[40:60, 100:-100] = True
    part = Tissue(mask, (10.0, 10.0), 1.0, 0.1, np.zeros_like(mask))
    picture = quality_picture(rgb, (10 * width, 1000), tissue=part)
    line = (picture[:100, width // 2] == TISSUE).all(axis=1)[:50].sum()
    text = np.flatnonzero((picture[100:, width // 40 + width // 26 :] < 128).all(axis=2).any(axis=1))
    assert line * 390 / width >= 0.9
    assert np.ptp(text) * 390 / width > 7  # from the top of a "t" to its foot


def test_a_large_picture_becomes_readable_and_no_larger():
    picture = quality_picture(np.full((4000, 2000, 3), 240, np.uint8), (8000, 16000))
    assert picture.shape == (PICTURE_SIDE, PICTURE_SIDE // 2, 3)


def test_the_file_is_a_jpeg_of_the_picture(tmp_path):
    write_jpeg(tmp_path / "a.jpg", RGB)
    assert (
        np.abs(np.asarray(Image.open(io.BytesIO((tmp_path / "a.jpg").read_bytes()))).astype(int) - 240).max()
        < 3
    )
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg"]


@pytest.mark.posix
@pytest.mark.parametrize("room", [0, 0.5, 0.999])
def test_a_picture_that_the_disk_cuts_off_never_gets_its_name(tmp_path, room):
    import resource

    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    write_jpeg(tmp_path / "whole.jpg", noise)
    size = (tmp_path / "whole.jpg").stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(room * size), limits[1]))
    try:
        with pytest.raises(OSError, match=re.escape(os.strerror(errno.EFBIG))):
            write_jpeg(tmp_path / "a.jpg", noise)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["whole.jpg"]
