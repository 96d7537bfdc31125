import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from healnet.explain import ScoreRaster, score_map, to_pyramid_tiff
from healnet.slides import Slide


def brute_force(coords, footprint, scores, level0_size, shape):
    """Pixel by pixel: the mean over patches that hold its center."""
    heat = np.full(shape, np.nan)
    for row in range(shape[0]):
        for column in range(shape[1]):
            x = (column + 0.5) * level0_size[0] / shape[1]
            y = (row + 0.5) * level0_size[1] / shape[0]
            inside = ((coords <= (x, y)) & ((x, y) < coords + footprint)).all(axis=1)
            if inside.any():
                heat[row, column] = scores[inside].mean()
    return heat


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 12), st.integers(43, 90), st.integers(5, 23), st.integers(5, 23))
def test_every_pixel_is_the_mean_over_the_patches_that_cover_it(seed, n, footprint, h, w):
    rng = np.random.default_rng(seed)
    coords = rng.integers(0, 199, (n, 2))
    scores = rng.standard_normal(n)
    found = score_map(coords, footprint, scores, (211, 199), (h, w))
    np.testing.assert_allclose(found, brute_force(coords, footprint, scores, (211, 199), (h, w)), atol=1e-12)


def test_patches_side_by_side_neither_overlap_nor_leave_gaps():
    coords = np.stack(np.meshgrid(np.arange(0, 1000, 10), np.arange(0, 1000, 10)), axis=-1).reshape(-1, 2)
    for shape in ((1000, 1000), (137, 211), (100, 100)):
        heat = score_map(coords, 10, np.ones(len(coords)), (1000, 1000), shape)
        np.testing.assert_allclose(heat, 1)


def test_a_patch_smaller_than_a_pixel_is_not_lost():
    heat = score_map([[37, 82]], 2, [5.0], (100, 100), (10, 10))
    assert np.argwhere(~np.isnan(heat)).tolist() == [[8, 3]]


def test_a_patch_over_the_edge_is_cut():
    heat = score_map([[90, 90]], 50, [5.0], (100, 100), (10, 10))
    assert np.argwhere(~np.isnan(heat)).tolist() == [[9, 9]]


def test_what_cannot_be_right_is_refused():
    outside = (
        r"^the patch at \[2000.0, 0.0\] lies outside a slide of 1000 x 800 level-0 pixels \(1 of 2 do\): "
        r"are coordinates and size of one slide, at level 0\?$"
    )
    with pytest.raises(ValueError, match=outside):
        score_map([[0, 0], [2000, 0]], 256, [1.0, 2.0], (1000, 800), (10, 10))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 30), st.integers(1, 50), st.sampled_from([1, 2, 5, 8]))
def test_a_raster_read_in_pieces_is_the_whole_map(seed, n, footprint, downsample):
    rng = np.random.default_rng(seed)
    coords, scores = rng.integers(-footprint + 1, 150, (n, 2)), rng.standard_normal(n)
    size = (24 * downsample, 16 * downsample)
    coords = coords[(coords < size).all(axis=1)]
    raster = ScoreRaster(coords, footprint, scores[: len(coords)], size, downsample)
    whole = score_map(coords, footprint, scores[: len(coords)], size, (16, 24))
    assert raster.shape == (16, 24)
    np.testing.assert_allclose(raster[0:16, 0:24], whole, atol=1e-12)
    for top in range(0, 16, 5):
        for left in range(0, 24, 7):
            part = raster[top : top + 5, left : left + 7]
            np.testing.assert_allclose(part, whole[top : top + 5, left : left + 7], atol=1e-12)


def test_the_last_pixels_of_a_raster_may_reach_over_the_edge():
    raster = ScoreRaster([[96, 0]], 4, [2.0], (100, 10), downsample=8)
    assert raster.shape == (2, 13)
    assert raster[0:2, 0:13][0, 12] == 2
    with pytest.raises(ValueError, match=r"^expected a downsample above 0, got 0$"):
        ScoreRaster([[96, 0]], 4, [2.0], (100, 10), downsample=0)
    with pytest.raises(ValueError, match=r"^the patch at \[96.0, 0.0\] lies outside a slide of 90 x 10"):
        ScoreRaster([[96, 0]], 4, [2.0], (90, 10))


def test_patches_become_a_pyramid_that_openslide_opens(tmp_path):
    """A planted patch is yellow at its place in every level, the others violet, glass white; the scale is the slide's."""
    coords = np.stack(np.meshgrid(np.arange(0, 8192, 256), np.arange(0, 4096, 256)), axis=-1).reshape(-1, 2)
    scores = (coords == (2048, 1024)).all(axis=1).astype(float)
    raster = ScoreRaster(
        coords[coords[:, 0] < 6144], 256, scores[coords[:, 0] < 6144], (8192, 4096), downsample=2
    )
    to_pyramid_tiff(raster, tmp_path / "overlay.tif", (0, 1), mpp=0.5)
    overlay = Slide(tmp_path / "overlay.tif")
    assert (overlay.width, overlay.height, overlay.mpp) == (4096, 2048, 0.5)
    assert overlay.level_downsamples == (1, 2, 4)
    for downsample in (1, 2, 4):
        side = 128 // downsample
        picture = overlay.scaled_region(1024 - 128, 512, 3 * side, side, downsample)
        assert (picture[:, :side] == (68, 1, 84)).all()
        assert (picture[:, side : 2 * side] == (253, 231, 37)).all()
        assert (picture[:, 2 * side :] == (68, 1, 84)).all()
    assert (overlay.region(3200, 0, 8, 8) == 255).all()


@pytest.mark.parametrize("key", [np.s_[::2, :], 3, np.s_[3, :], np.s_[:], np.s_[:, :, :]])
def test_what_a_raster_cannot_read_is_refused(key):
    """A step was passed over, and gave all pixels."""
    raster = ScoreRaster([[0, 0]], 8, [1.0], (32, 32))
    with pytest.raises(
        ValueError, match=r"^expected two slices without steps, such as raster\[:100, 50:90\], got "
    ):
        raster[key]
