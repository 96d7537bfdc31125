import h5py
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from healnet._plotting import new_figure
from healnet.explain import plot_slide_heatmap, score_map
from healnet.slides.slide import Slide
from healnet.slides.trident_clam_reader import read_patches


def brute_force(coords, footprint, scores, level0_size, shape):
    """Pixel by pixel: the mean over patches that hold its centre."""
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


def drawn(slide, coords, footprint, scores, shape, **options):
    """The picture alone on a figure of as many pixels as it has: (h, w, 3) bytes."""
    figure = new_figure(shape[1] / 50, shape[0] / 50)
    figure.set_layout_engine("none")
    ax = figure.add_axes((0, 0, 1, 1))
    plot_slide_heatmap(slide, coords, footprint, scores, ax=ax, colorbar=False, **options)
    for spine in ax.spines.values():
        spine.set_visible(False)
    figure.set_dpi(50)
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[:, :, :3]


def pyramid(path, width, height, levels):
    """A grey slide of several levels, without a scale of its own."""
    with tifffile.TiffWriter(path) as file:
        for level in range(levels):
            image = np.full((height >> level, width >> level, 3), 200, np.uint8)
            file.write(
                image, tile=(256, 256), photometric="rgb", subfiletype=int(level > 0), compression="zlib"
            )
    return Slide(path)


def clam(folder, coords, patch_size, level):
    """A CLAM patches file and its feature file: the geometry is in the attributes of the former."""
    (folder / "patches").mkdir()
    (folder / "h5_files").mkdir()
    with h5py.File(folder / "patches" / "s.h5", "w") as file:
        file["coords"] = np.asarray(coords, np.int64)
        file["coords"].attrs.update(
            patch_size=patch_size, patch_level=level, downsample=(2.0**level, 2.0**level)
        )
    with h5py.File(folder / "h5_files" / "s.h5", "w") as file:
        file["coords"] = np.asarray(coords, np.int32)
        file["features"] = np.zeros((len(coords), 2), np.float32)
    return read_patches(folder / "h5_files" / "s.h5")


def trident(folder, coords, patch_size, target, level0):
    with h5py.File(folder / "s.h5", "w") as file:
        file["features"] = np.zeros((len(coords), 2), np.float32)
        file["coords"] = np.asarray(coords, np.int64)
        notes = {"patch_size": patch_size, "patch_size_level0": patch_size * level0 // target, "name": "s"}
        file["coords"].attrs.update(notes, target_magnification=target, level0_magnification=level0)
    return read_patches(folder / "s.h5")


@pytest.mark.parametrize("levels", [1, 3])
@pytest.mark.parametrize("magnified", [1, 2, 8])
@pytest.mark.parametrize("tool", ["clam level 0", "clam level 1", "trident 40x", "trident 20x"])
def test_a_planted_patch_lights_exactly_its_pixels(tmp_path, levels, magnified, tool):
    """From the tools' files to the figure's pixels, on slides of one and of several levels, at any thumbnail."""
    width, height, bright = 1536, 1024, 4
    slide = pyramid(tmp_path / "s.tif", width, height, levels)
    footprint = 256 if tool in ("clam level 0", "trident 40x") else 512
    coords = np.stack(np.meshgrid(np.arange(0, width - 255, footprint), [0, 512]), axis=-1).reshape(-1, 2)
    if tool.startswith("clam"):
        file = clam(tmp_path, coords, 256, int(tool[-1]))
    else:
        file = trident(tmp_path, coords, 256, int(tool[-3:-1]), 40)
    assert file.footprint == footprint
    scores = np.zeros(len(coords))
    scores[bright] = 1.0
    shape = (height // magnified, width // magnified)
    picture = drawn(
        slide,
        file.coords,
        file.footprint,
        scores,
        shape,
        max_size=shape[1],
        scale="raw",
        alpha=1.0,
        cmap="gray",
    )
    assert picture.shape == (*shape, 3)
    x, y = coords[bright] // magnified
    side = footprint // magnified
    expected = np.full(shape, 200)
    for left, top in coords // magnified:
        expected[top : top + side, left : left + side] = 0
    expected[y : y + side, x : x + side] = 255
    np.testing.assert_array_equal(picture[:, :, 0], expected)


def test_overlapping_patches_are_averaged_in_the_picture():
    blank = np.zeros((8, 16, 3), np.uint8)
    options = {"level0_size": (160, 80), "scale": "raw", "alpha": 1.0, "cmap": "gray"}
    picture = drawn(blank, [[0, 0], [40, 0], [120, 0]], 80, [0.0, 1.0, 1.0], (8, 16), **options)
    assert picture[0, :, 0].tolist() == [0] * 4 + [128] * 4 + [255] * 8


def test_percentiles_and_a_thumbnail_of_a_rounded_size():
    blank = np.full((67, 100, 3), 200, np.uint8)  # of 1501 x 1003
    coords = [[0, 0], [300, 0], [600, 0], [900, 0]]
    options = {"level0_size": (1501, 1003), "alpha": 1.0, "cmap": "gray"}
    picture = drawn(blank, coords, 300, [1.0, 2.0, 4000.0, 3.0], (67, 100), **options)
    assert picture[5, [5, 25, 45, 65], 0].tolist() == [0, 85, 255, 170]
    assert picture[60, 5, 0] == 200


def test_the_scale_bar_is_a_round_length_of_the_right_size():
    ax = plot_slide_heatmap(np.zeros((10, 20, 3)), [[0, 0]], 100, [1.0], level0_size=(20000, 10000), mpp=0.25)
    bar = ax.patches[0]
    assert [text.get_text() for text in ax.texts] == ["1 mm"]
    assert bar.get_width() == 4000
    without = plot_slide_heatmap(np.zeros((10, 20, 3)), [[0, 0]], 100, [1.0], level0_size=(20000, 10000))
    assert not without.patches
    with pytest.raises(ValueError, match=r"^expected mpp above 0, in microns per pixel, got -0.25$"):
        plot_slide_heatmap(np.zeros((10, 20, 3)), [[0, 0]], 1, [1.0], level0_size=(20, 10), mpp=-0.25)


@pytest.mark.parametrize("size", [(100, 10000), (10000, 100), (5, 5), (200000, 90000)])
def test_the_scale_bar_lies_on_the_slide_and_is_as_long_as_it_says(size):
    shape = (size[1] * 200 // max(size), size[0] * 200 // max(size), 3)
    ax = plot_slide_heatmap(np.zeros(shape), [[0, 0]], 5, [1.0], level0_size=size, mpp=0.25)
    (left, bottom), (right, top) = ax.patches[0].get_bbox().get_points()
    assert 0 < left < right < size[0]
    assert 0 < bottom < top < size[1]
    length, unit = ax.texts[0].get_text().split()
    np.testing.assert_allclose((right - left) * 0.25, float(length) * {"mm": 1000, "µm": 1}[unit])
    assert 0.08 <= (right - left) / size[0] <= 0.2 + 1e-9


@pytest.mark.parametrize("scale", ["percentile", "raw"])
def test_a_slide_without_patches_is_its_thumbnail(scale):
    picture = drawn(
        np.full((8, 16, 3), 200, np.uint8),
        np.empty((0, 2)),
        5,
        [],
        (8, 16),
        level0_size=(160, 80),
        scale=scale,
    )
    assert (picture == 200).all()


def test_thumbnails_that_do_not_say_enough_are_refused(tmp_path):
    message = r"^a thumbnail does not say how large its slide is: pass level0_size=\(width, height\)$"
    with pytest.raises(ValueError, match=message):
        plot_slide_heatmap(np.zeros((10, 10, 3)), [[0, 0]], 1, [1.0])
    message = r"^a thumbnail of 10 x 10 is not a picture of the whole of a slide of 2000 x 1000 pixels$"
    with pytest.raises(ValueError, match=message):
        plot_slide_heatmap(np.zeros((10, 10, 3)), [[0, 0]], 1, [1.0], level0_size=(2000, 1000))
    slide = pyramid(tmp_path / "s.tif", 512, 256, 1)
    with pytest.raises(
        ValueError, match=r"^the slide is 512 x 256 pixels at level 0, got level0_size \(256, 512\)$"
    ):
        plot_slide_heatmap(slide, [[0, 0]], 1, [1.0], level0_size=(256, 512))
