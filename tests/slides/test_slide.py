"""Slides at their true scale, whatever says it; any size in bounded memory."""

import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from healnet.slides.slide import Slide

REAL = Path(__file__).parents[1] / "data" / "real"


def numbers(x, y):
    """A different color at every place, at least nearby."""
    x, y = np.broadcast_arrays(x, y)
    return np.stack((x % 251, y % 241, (x + y) % 239), axis=-1).astype(np.uint8)


@pytest.fixture(scope="module")
def path(slide_writer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    return slide_writer(
        folder / "a.tif", (3000, 2100), [(0, 0, 3000, 2100, "texture")], levels=(1, 4), texture=numbers
    )


@pytest.fixture(scope="module")
def one_level(slide_writer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    return slide_writer(
        folder / "b.tif", (3000, 2100), [(0, 0, 3000, 2100, "texture")], levels=(1,), texture=numbers
    )


def expected_pixels(x, y, width, height):
    return numbers(x + np.arange(width)[None], y + np.arange(height)[:, None])


# Scale


def test_mpp_from_the_file_or_by_the_users_word(path, slide_writer, tmp_path):
    assert Slide(path).mpp == pytest.approx(0.5)
    assert Slide(path, mpp=0.25).mpp == 0.25
    assert (Slide(path).magnification, Slide(path, mpp=0.25).magnification) == (20.0, 40.0)
    aperio = "Aperio Image Library v1\n|AppMag = 20|MPP = 0.4"
    slide = Slide(slide_writer(tmp_path / "aperio.svs", (600, 500), mpp=None, description=aperio))
    assert slide.mpp == pytest.approx(0.4)
    with pytest.raises(
        ValueError, match=r"a\.tif: expected mpp in microns per level-0 pixel, from 0\.02 to 40\.0, got 250$"
    ):
        Slide(path, mpp=250)


def test_an_unknown_scale_is_asked_for_and_never_assumed(slide_writer, tmp_path):
    aperio = "Aperio Image Library v1\n|AppMag = 40"
    path = slide_writer(tmp_path / "a.svs", (600, 500), mpp=None, description=aperio)
    slide = Slide(path)
    assert (slide.mpp, slide.magnification) == (None, 40.0)
    said = "the file does not say its microns per pixel (objective power 40)"
    expected = f"{path}: {said}; say it yourself: Slide(path, mpp=...)"
    for ask in (
        slide.tissue,
        slide.tiles,
        lambda: slide.as_array(mpp=2.0),
        lambda: slide.region(0, 0, 5, 5, mpp=1.0),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
            ask()
    assert slide.thumbnail(60).shape == (50, 60, 3)
    assert Slide(path, mpp=0.25).as_array(mpp=2.5).shape == (50, 60, 3)


# Pixels


def test_a_region_is_the_pixels_of_its_place(path):
    slide = Slide(path)
    assert np.array_equal(slide.region(517, 1031, 61, 53), expected_pixels(517, 1031, 61, 53))
    assert np.array_equal(slide.region(517, 1031, 61, 53, mpp=0.5), expected_pixels(517, 1031, 61, 53))


def test_beyond_the_slide_is_white(path):
    region = Slide(path).region(2990, -7, 20, 20)
    assert (region[:7] == 255).all()
    assert (region[:, 10:] == 255).all()
    assert np.array_equal(region[7:, :10], expected_pixels(2990, 0, 10, 13))


def test_half_the_scale_is_the_mean_of_two_by_two(path):
    fine = expected_pixels(200, 200, 40, 30).astype(float)
    mean = fine.reshape(15, 2, 20, 2, 3).mean((1, 3))
    region = Slide(path).region(200, 200, 20, 15, mpp=1.0)
    assert np.abs(region - mean).max() <= 1  # rounded twice


def test_the_coarsest_level_that_is_fine_enough_is_read(slide_writer, tmp_path):
    path = slide_writer(tmp_path / "a.tif", (4096, 4096), levels=(1, 4, 16), mark_levels=True)
    slide = Slide(path)
    levels = [
        int(slide.region(0, 0, 16, 16, mpp=0.5 * d)[0, 0, 2]) // 10 for d in (1, 2, 3.9, 3.99, 4, 9, 16, 40)
    ]
    assert levels == [0, 0, 0, 1, 1, 1, 2, 2]


def test_finer_than_the_slide_is_refused_but_for_rounding(path):
    slide = Slide(path)
    with pytest.raises(
        ValueError, match=r"a\.tif: the slide has 0\.5 microns per pixel; it cannot give 0\.25$"
    ):
        slide.region(0, 0, 5, 5, mpp=0.25)
    assert slide.region(0, 0, 50, 40, mpp=0.46).shape == (40, 50, 3)


def test_the_whole_slide_is_the_mean_over_area_across_the_seams_of_its_pieces(one_level):
    slide = Slide(one_level)
    whole = slide.as_array(mpp=2.5)  # 5 x 5 pixels each, from pieces of 2045
    mean = expected_pixels(0, 0, 3000, 2100).astype(float).reshape(420, 5, 600, 5, 3).mean((1, 3))
    assert whole.shape == (420, 600, 3)
    assert np.abs(whole - mean).max() <= 1


@pytest.mark.parametrize(("x", "y", "downsample"), [(10.3, 20.6, 3.7), (11.0, 7.0, 2.5), (0.5, 0.25, 6.0)])
def test_a_region_between_pixels_is_the_mean_over_its_own_area(one_level, x, y, downsample):
    region = Slide(one_level).scaled_region(x, y, 30, 20, downsample)
    # The colors rise by one a pixel: pixel i covers i..i+1, and the mean over an interval is its middle less a half.
    across = x + downsample * (np.arange(30) + 0.5) - 0.5
    down = y + downsample * (np.arange(20) + 0.5) - 0.5
    # Pillow counts a pixel that is cut in two wholly on one side: half a pixel, and half for rounding.
    assert np.abs(region[..., 0] - across[None]).max() <= 1
    assert np.abs(region[..., 1] - down[:, None]).max() <= 1
    # One pixel further along is the same picture moved by one pixel.
    moved = Slide(one_level).scaled_region(x + downsample, y + downsample, 30, 20, downsample)
    assert np.array_equal(moved[:-1, :-1], region[1:, 1:])


def test_a_scale_that_does_not_divide_still_covers_the_whole_slide(one_level):
    whole = Slide(one_level).as_array(mpp=3.35)  # 6.7 pixels each
    assert whole.shape == (round(2100 / 6.7), round(3000 / 6.7), 3)
    mean = expected_pixels(0, 0, 3000, 2100).mean((0, 1))
    assert np.abs(whole.mean((0, 1)) - mean).max() < 0.5
    # The last row lies on the last pixels of the slide, not before them.
    last = expected_pixels(0, 2094, 3000, 6)[..., 1].mean()
    assert abs(whole[-1, :, 1].mean() - last) < 1.5


def test_an_array_too_large_for_memory_is_refused_with_what_would_fit(path, monkeypatch):
    monkeypatch.setattr("healnet.slides.slide.MAX_PIXELS", 10_000)
    text = f"{path}: 3000 x 2100 pixels are too many for one array; take mpp of at least 12.55, or tiles"
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        Slide(path).as_array()


def test_a_thumbnail_keeps_the_proportions(path):
    assert Slide(path).thumbnail(300).shape == (210, 300, 3)
    assert Slide(path).thumbnail(10_000).shape == (2100, 3000, 3)


# Files


def test_a_slide_can_be_pickled_closed_and_read_again(path):
    slide = Slide(path, mpp=0.4, name="patient-1")
    copy = pickle.loads(pickle.dumps(slide))
    assert (copy.name, copy.mpp, repr(copy)) == ("patient-1", 0.4, "Slide('patient-1', 3000 x 2100, mpp=0.4)")
    with copy:
        before = copy.region(5, 5, 9, 9)
    assert np.array_equal(copy.region(5, 5, 9, 9), before)


def test_what_is_no_slide(tmp_path):
    (tmp_path / "a.svs").write_text("not a slide")
    with pytest.raises(
        ValueError, match=r"a\.svs: OpenSlide cannot read this file \(Unsupported or missing image file\)$"
    ):
        Slide(tmp_path / "a.svs")
    with pytest.raises(FileNotFoundError, match=r"b\.svs: no such slide$"):
        Slide(tmp_path / "b.svs")


def test_a_damaged_tile_names_its_place_and_leaves_the_rest_readable(path, tmp_path):
    import tifffile

    with tifffile.TiffFile(path) as file:
        start = file.pages[0].dataoffsets[0]
    data = bytearray(path.read_bytes())
    data[start : start + 100] = bytes(100)
    (tmp_path / "a.tif").write_bytes(data)
    slide = Slide(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a\.tif: damaged at \(3, 4\), level 0, 5 x 6 \("):
        slide.region(3, 4, 5, 6)
    assert np.array_equal(slide.region(1031, 517, 61, 53), expected_pixels(1031, 517, 61, 53))


# Plain images


def image_pixels(height=90, width=130):
    y, x = np.mgrid[:height, :width]
    return np.stack((x, 2 * y, (3 * x + 5 * y) % 256), axis=-1).astype(np.uint8)


def test_a_png_is_a_slide_of_one_level(tmp_path):
    pixels = image_pixels()
    # 50,800 dots per inch are 0.5 microns a pixel.
    Image.fromarray(pixels).save(tmp_path / "a.png", dpi=(50_800, 50_800))
    slide = Slide(tmp_path / "a.png")
    assert (slide.width, slide.height, slide.level_downsamples) == (130, 90, (1.0,))
    assert slide.mpp == pytest.approx(0.5, rel=1e-4)
    assert np.array_equal(slide.region(0, 0, 130, 90), pixels)
    assert np.array_equal(slide.region(37, 41, 11, 13), pixels[41:54, 37:48])
    beyond = slide.region(125, 84, 9, 10)
    assert np.array_equal(beyond[:6, :5], pixels[84:, 125:])
    assert (beyond[6:] == 255).all()
    assert (beyond[:, 5:] == 255).all()
    tiles = pickle.loads(pickle.dumps(slide)).tiles(size=30, mpp=0.5, tissue_fraction=0)
    assert np.array_equal(tiles.coords[6], [30, 30])
    assert np.array_equal(tiles[6].permute(1, 2, 0), pixels[30:60, 30:60])
    halved = slide.region(20, 10, 15, 20, mpp=1.0)
    expected = pixels[10:50, 20:50].reshape(20, 2, 15, 2, 3).mean(axis=(1, 3))
    assert np.abs(halved - expected).max() <= 0.5


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("L", [90, 90, 90]), ("P", [10, 20, 30]), ("RGBA", [10, 20, 30]), ("I;16", None)],
)
def test_images_of_other_modes_become_rgb(tmp_path, mode, expected):
    image = Image.new(mode, (20, 10), {"L": 90, "P": 0, "RGBA": (10, 20, 30, 255), "I;16": 60_000}[mode])
    if mode == "P":
        image.putpalette([10, 20, 30] * 256)
    image.save(tmp_path / "a.png")
    if expected is None:
        with pytest.raises(
            ValueError, match=r"a\.png: .*\(expected 8 bits a color, got an image of mode I(;16)?\)$"
        ):
            Slide(tmp_path / "a.png")
        return
    assert Slide(tmp_path / "a.png").region(3, 4, 5, 2).tolist() == [[expected] * 5] * 2


@pytest.mark.parametrize("suffix", ["tif", "jpg"])
def test_images_that_openslide_does_not_read(tmp_path, suffix):
    """A TIFF in strips and a JPEG, whose colors are rounded."""
    pixels = np.full((80, 120, 3), (200, 120, 40), np.uint8)
    pixels[16:48, 64:96] = (30, 60, 220)
    options = {"quality": 100, "subsampling": 0} if suffix == "jpg" else {}
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", **options)
    slide = Slide(tmp_path / f"a.{suffix}", mpp=0.5)
    read = slide.region(0, 0, 120, 80).astype(int)
    assert np.abs(read - pixels).max() <= (2 if suffix == "jpg" else 0)


def test_transparent_parts_of_an_image_are_white(tmp_path):
    pixels = np.full((10, 20, 4), (10, 20, 30, 255), np.uint8)
    pixels[:, 10:, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "a.png")
    read = Slide(tmp_path / "a.png").region(0, 0, 20, 10)
    assert (read[:, :10] == (10, 20, 30)).all()
    assert (read[:, 10:] == 255).all()


# Real slides


def test_a_piece_of_a_real_slide_of_one_level():
    slide = Slide(REAL / "cmu-1-small-region_crop.svs")
    assert (slide.width, slide.height, slide.mpp, slide.magnification) == (512, 448, 0.499, 20.0)
    tissue = slide.tissue()
    assert tissue.area_mm2 == pytest.approx(0.0431, abs=0.002)
    assert tissue.mask.shape == (28, 32)
    tiles = slide.tiles(size=64, mpp=1.0, tissue=tissue)
    assert tiles.footprint == 128
    assert len(tiles) == 13
    assert tiles[0].shape == (3, 64, 64)


def test_a_real_overview_that_does_not_say_its_scale():
    path = REAL / "tcga-cr-7395-01a-01-ts1_8mpp.png"
    assert (Slide(path).mpp, Slide(path).magnification) == (None, None)
    with pytest.raises(ValueError, match=r"the file does not say its microns per pixel; say it yourself"):
        Slide(path).tiles()
    slide = Slide(path, mpp=8.0)
    tissue = slide.tissue()
    assert tissue.area_mm2 == pytest.approx(2.55, abs=0.1)
    y, x = (np.array([129, 178]) / tissue.downsample[::-1]).astype(int)
    assert not tissue.mask[y, x]  # the tear in the middle stays a hole
    assert slide.as_array(mpp=8.0).shape == (223, 278, 3)


@pytest.mark.whole_files
def test_a_real_slide_of_one_level(whole_files):
    slide = Slide(whole_files / "slides" / "cmu-1-small-region.svs")
    assert (slide.width, slide.height, slide.mpp, slide.magnification) == (2220, 2967, 0.499, 20.0)
    tissue = slide.tissue()
    assert 0.5 < tissue.area_mm2 < 0.7
    assert tissue.mask.shape == (185, 138)
    assert tissue.rgb.shape == (
        4 * 185,
        4 * 138,
        3,
    )  # a picture that is large enough to look at, from the same pixels
    tiles = slide.tiles(size=224, mpp=1.0, tissue=tissue)
    assert tiles.footprint == 449
    assert 10 < len(tiles) < 30
    assert tiles[0].shape == (3, 224, 224)


@pytest.mark.whole_files
def test_a_real_slide_that_does_not_say_its_scale(whole_files):
    path = whole_files / "slides" / "tcga-cr-7395-01a-01-ts1.svs"
    assert (Slide(path).mpp, Slide(path).magnification) == (None, None)
    with pytest.raises(ValueError, match=r"the file does not say its microns per pixel; say it yourself"):
        Slide(path).tiles()
    slide = Slide(path, mpp=0.5)
    tissue = slide.tissue()
    assert 2.4 < tissue.area_mm2 < 2.7
    y, x = (np.array([2070, 2850]) / tissue.downsample[::-1]).astype(int)
    assert not tissue.mask[y, x]  # the tear in the middle stays a hole
    assert len(slide.tiles(size=256, mpp=1.0, tissue=tissue)) > 40
    assert slide.as_array(mpp=8.0).shape == (223, 278, 3)


# Size


@pytest.mark.linux
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_40_000_pixels_a_side_in_bounded_memory(slide_writer, tmp_path):
    """4.8 GB of pixels: tissue, tiles, an array and 40 tiles' pixels, within 300 MB above the imports."""
    rectangles = [(4096, 8192, 24576, 28672, (150, 80, 160)), (10240, 14336, 14336, 18432, (243, 242, 244))]
    path = slide_writer(
        tmp_path / "big.tif", (40_000, 40_000), rectangles, levels=(1, 4, 16, 64), tile=512, mpp=0.25
    )
    code = f"""
import json, re
from pathlib import Path
import scipy.ndimage, torch
from healnet.slides.slide import Slide
# Not `resource`'s maximum, which begins at that of the process that started this one.
peak = lambda: int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024
before = peak()
slide = Slide({str(path)!r})
tissue = slide.tissue()
tiles = slide.tiles(256, 0.5, tissue_fraction=0.5, tissue=tissue)
some = [int(tiles[i][1].float().mean()) for i in range(0, len(tiles), len(tiles) // 40)]
whole = slide.as_array(mpp=4.0)
print(json.dumps([slide.mpp, tissue.area_mm2, len(tiles), tiles.footprint, sorted(set(some)), whole.shape, peak() - before]))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    mpp, area, count, footprint, greens, shape, grown = json.loads(result.stdout)
    assert (mpp, footprint, greens, shape) == (0.25, 512, [80], [2500, 2500, 3])
    assert count == 40 * 40 - 8 * 8  # the tissue less its hole
    assert area == pytest.approx((20480**2 - 4096**2) * 0.25**2 / 1e6, rel=0.01)
    assert grown < 300
