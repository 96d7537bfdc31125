import h5py
import numpy as np
import pytest
import tifffile
from PIL import Image

from healnet._plotting import new_figure
from healnet.explain import plot_slide_heatmap, plot_slide_panels
from healnet.slides.features.trident_clam_reader import read_patches
from healnet.slides.slide import Slide


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
    """A gray slide of several levels, without a scale of its own."""
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
    width, height, bright = 768, 512, 4
    slide = pyramid(tmp_path / "s.tif", width, height, levels)
    footprint = 128 if tool in ("clam level 0", "trident 40x") else 256
    coords = np.stack(np.meshgrid(np.arange(0, width - 127, footprint), [0, 256]), axis=-1).reshape(-1, 2)
    if tool.startswith("clam"):
        file = clam(tmp_path, coords, 128, int(tool[-1]))
    else:
        file = trident(tmp_path, coords, 128, int(tool[-3:-1]), 40)
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


def test_alpha_is_the_opacity_of_the_scores():
    white = np.full((4, 4, 3), 255, np.uint8)
    for alpha, seen in ((0.0, 255), (0.5, 128), (1.0, 0)):
        options = {"level0_size": (4, 4), "cmap": "gray_r", "alpha": alpha}
        assert abs(int(drawn(white, [[0, 0]], 4, [1.0], (4, 4), **options)[1, 1, 0]) - seen) <= 1


@pytest.mark.parametrize("size", [(4000, 1000), (1000, 4000), (1000, 1000)])
def test_the_picture_fills_its_figure(size):
    """No blank strip above or beside a slide, whatever its shape."""
    thumbnail = np.zeros((size[1] // 10, size[0] // 10, 3), np.uint8)
    ax = plot_slide_heatmap(thumbnail, [[0, 0]], 100, [1.0], level0_size=size, colorbar=False)
    ax.figure.draw_without_rendering()
    box, whole = ax.get_window_extent(), ax.figure.bbox
    assert whole.width - box.width < 12
    assert whole.height - box.height < 12
    with_bar = plot_slide_heatmap(thumbnail, [[0, 0]], 100, [1.0], level0_size=size).figure
    with_bar.draw_without_rendering()
    drawn_in = with_bar.get_tightbbox()
    assert drawn_in.width > with_bar.get_figwidth() - 0.2
    assert drawn_in.height > with_bar.get_figheight() - 0.2


def test_the_plain_slide_stands_beside_its_scores(tmp_path):
    slide = pyramid(tmp_path / "s.tif", 512, 256, 1)
    slide.mpp = 0.5
    plain, heat = plot_slide_panels(slide, [[0, 0], [256, 0]], 256, [1.0, 3.0], alpha=0.3)
    assert len(plain.images) == 1
    np.testing.assert_array_equal(plain.images[0].get_array(), heat.images[0].get_array())
    assert heat.images[1].get_alpha() == 0.3
    shown = heat.images[1].get_array()
    assert (shown[0, 0], shown[0, 511]) == (0, 100)
    assert [[text.get_text() for text in ax.texts] for ax in (plain, heat)] == [["50 µm"]] * 2
    assert plain.get_title(loc="left") == "s"


def test_several_slides_share_one_color_scale(tmp_path):
    slides = [pyramid(tmp_path / "a.tif", 512, 256, 1), pyramid(tmp_path / "b.tif", 256, 256, 1)]
    coords = np.array([[0, 0, 0], [0, 0, 1], [128, 128, 1]])
    grid = plot_slide_panels(slides, coords, [256, 128], [1.0, -4.0, 3.0], scale="raw")
    first, second = grid[1].images[1], grid[3].images[1]
    assert first.get_clim() == second.get_clim() == (-4, 4)
    assert np.nanmax(np.ma.filled(first.get_array(), np.nan)) == 1
    assert np.ma.filled(second.get_array(), np.nan)[0, 0] == -4
    assert second.get_array()[255, 255] == 3
    assert [ax.get_title(loc="left") for ax in grid] == ["a", "", "b", ""]
    ranked = plot_slide_panels(slides, coords, [256, 128], [1.0, -4.0, 3.0])
    assert ranked[1].images[1].get_array()[0, 0] == 50  # among the patches of both slides


def test_slides_and_patches_that_do_not_fit_are_refused(tmp_path):
    slide = pyramid(tmp_path / "a.tif", 512, 256, 1)
    with pytest.raises(ValueError, match=r"^expected a footprint for each of 2 slides, got 1$"):
        plot_slide_panels([slide, slide], [[0, 0, 0]], [8], [1.0])
    with pytest.raises(ValueError, match=r"^expected patches of slides 0 to 1, got one of slide 2$"):
        plot_slide_panels([slide, slide], [[0, 0, 2]], 8, [1.0])
    message = r"^expected coords \(1, 3\) with the position of one of 2 slides last, or \(1, 2\) of one slide, got \(1, 2\)$"
    with pytest.raises(ValueError, match=message):
        plot_slide_panels([slide, slide], [[0, 0]], 8, [1.0])


def test_a_thumbnail_may_be_a_picture_of_pil():
    """OpenSlide's get_thumbnail gives one; it has a method `thumbnail`, as a `Slide` has, that does something else."""
    picture = Image.new("RGB", (40, 20), (10, 20, 30))
    ax = plot_slide_heatmap(picture, [[0, 0]], 100, [1.0], level0_size=(400, 200))
    assert ax.images[0].get_array().shape == (20, 40, 3)
    assert tuple(ax.images[0].get_extent()) == (0, 400, 200, 0)


def test_a_strip_leaves_no_blank_space_and_does_not_shrink_other_slides(tmp_path):
    strip, square = pyramid(tmp_path / "strip.tif", 256, 8960, 1), pyramid(tmp_path / "b.tif", 512, 512, 1)
    alone = plot_slide_panels(strip, [[0, 0]], 256, [1.0])
    both = plot_slide_panels([square, strip], [[0, 0, 0], [0, 0, 1]], np.array([256, 256]), [1.0, 2.0])
    inches = [
        panel.get_window_extent().size / grid.figure.dpi
        for grid in (alone, both)
        for panel in grid
        if grid.figure.draw_without_rendering() is None
    ]
    assert inches[0][1] > 4
    assert alone.figure.get_size_inches()[0] < 2.5
    assert min(inches[2]) > 3  # the square slide


def test_no_slides_are_refused():
    with pytest.raises(ValueError, match=r"^expected at least one slide, got none$"):
        plot_slide_panels([], np.zeros((0, 3)), 256, [])
