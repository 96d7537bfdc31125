"""TIFF files of every layout give the pixels that were written, or are refused by what they hold."""

import importlib.util
import re

import numpy as np
import pytest
import tifffile

from healnet.slides import Slide
from healnet.slides.tiff_pages import open_tiff_pages

PIXELS = np.random.default_rng(0).integers(0, 256, (211, 307, 3), dtype=np.uint8)
PLANES = PIXELS.transpose(2, 0, 1).copy()
TILED = {"tile": (64, 80)}
GRAY = {"photometric": "minisblack"}


def channels(*names, colors=None):
    stated = {"Name": list(names)} if names else {}
    return stated | ({"Color": colors} if colors else {})


LAYOUTS = {
    "three pages": (PLANES, {**GRAY, **TILED, "metadata": {"axes": "CYX"}}),
    "three pages in strips": (PLANES, {**GRAY, "rowsperstrip": 17, "metadata": {"axes": "CYX"}}),
    "three pages packed": (
        PLANES,
        {**GRAY, **TILED, "metadata": {"axes": "CYX"}, "compression": "zlib", "predictor": True},
    ),
    "planar gray": (
        PLANES,
        {**GRAY, **TILED, "metadata": {"axes": "CYX"}, "planarconfig": "separate"},
    ),
    "planar gray in strips": (
        PLANES,
        {**GRAY, "rowsperstrip": 17, "metadata": {"axes": "CYX"}, "planarconfig": "separate"},
    ),
    "planar": (PLANES, {"photometric": "rgb", "planarconfig": "separate", **TILED}),
    "planar in strips": (PLANES, {"photometric": "rgb", "planarconfig": "separate", "compression": "zlib"}),
    "colors side by side": (PIXELS, {"photometric": "rgb", **TILED}),
    "named red, green and blue": (
        PLANES,
        {**GRAY, **TILED, "metadata": {"axes": "CYX", "Channel": channels("Red", "green", "Camera B")}},
    ),
    "colored red, green and blue": (
        PLANES,
        {
            **GRAY,
            **TILED,
            "metadata": {
                "axes": "CYX",
                "Channel": channels("Channel 0", "Channel 1", "C:2", colors=[-16776961, 16711935, 65535]),
            },
        },
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_pixels_that_were_written(tmp_path, name):
    data, options = LAYOUTS[name]
    tifffile.imwrite(tmp_path / "a.ome.tif", data, **options)
    slide = Slide(tmp_path / "a.ome.tif")
    assert (slide.width, slide.height) == (307, 211)
    assert np.array_equal(slide.region(0, 0, 307, 211), PIXELS)
    assert np.array_equal(slide.region(61, 59, 103, 97), PIXELS[59:156, 61:164])
    beyond = slide.region(290, -5, 40, 30)
    assert np.array_equal(beyond[5:, :17], PIXELS[:25, 290:])
    assert (beyond[:5] == 255).all()
    assert (beyond[:, 17:] == 255).all()
    slide.close()
    assert np.array_equal(slide.region(5, 5, 9, 9), PIXELS[5:14, 5:14])


def write_pyramid(path, data, steps=(1, 2, 4), **options):
    """Levels in SubIFDs, each with another value of blue so that it is seen which one was read."""
    axis = options["metadata"]["axes"]
    with tifffile.TiffWriter(path, ome=True) as file:
        for level, step in enumerate(steps):
            part = (data[::step, ::step] if axis == "YXS" else data[:, ::step, ::step]).copy()
            part[(..., 2) if axis == "YXS" else 2] = level
            own = {"subifds": len(steps) - 1} if level == 0 else {"subfiletype": 1}
            file.write(part, **own, **({**options, "metadata": None} if level else options))


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (PIXELS, {"photometric": "rgb", "compression": "zlib", "metadata": {"axes": "YXS"}}),
        (PLANES, {**GRAY, "metadata": {"axes": "CYX"}}),
    ],
)
def test_levels_in_subifds_are_read(tmp_path, data, options):
    options["metadata"] |= {"PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25}
    write_pyramid(tmp_path / "a.ome.tif", data, tile=(64, 64), **options)
    slide = Slide(tmp_path / "a.ome.tif")
    assert slide.level_downsamples == pytest.approx((1, 2, 4), rel=0.01)
    for level, mpp in enumerate((0.25, 0.5, 1.0)):
        region = slide.region(32, 64, 13, 11, mpp=mpp)
        expected = PIXELS[64 :: 2**level, 32 :: 2**level][:11, :13].copy()
        expected[..., 2] = level
        assert np.array_equal(region, expected)
    assert (slide.thumbnail(70)[..., 2] == 2).all()


def test_a_level_of_other_proportions_is_no_level(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as file:
        options = {"photometric": "rgb", **TILED}
        file.write(PIXELS, subifds=2, metadata={"axes": "YXS"}, **options)
        file.write(PIXELS[::2, ::2].copy(), subfiletype=1, **options)
        file.write(PIXELS[:64, :64].copy(), subfiletype=1, **options)
    assert len(Slide(tmp_path / "a.ome.tif").level_downsamples) == 2


@pytest.mark.parametrize(
    ("data", "options", "got"),
    [
        (
            np.zeros((4, 80, 96), np.uint16),
            {**GRAY, **TILED, "metadata": {"axes": "CYX", "Channel": channels("DAPI", "CD3", "CD8", "CK")}},
            "red, green and blue of 8 bits each, got 4 channels (DAPI, CD3, CD8, CK) of 16 bits",
        ),
        (
            np.zeros((80, 96, 3), np.uint16),
            {"photometric": "rgb", **TILED},
            "red, green and blue of 8 bits each, got 3 channels of 16 bits",
        ),
        (
            np.zeros((80, 96), np.float32),
            {**GRAY, "metadata": {"axes": "YX"}},
            "red, green and blue of 8 bits each, got one channel of 32 bits of floating point",
        ),
        (
            np.zeros((3, 80, 96), np.uint8),
            {**GRAY, **TILED, "metadata": {"axes": "CYX", "Channel": channels("DAPI", "FITC", "Red")}},
            "channels red, green and blue, got 3 channels (DAPI, FITC, Red)",
        ),
        (
            np.zeros((3, 80, 96), np.uint8),
            {
                **GRAY,
                **TILED,
                "metadata": {"axes": "CYX", "Channel": channels(colors=[65535, 16711935, -16776961])},
            },
            "channels red, green and blue, got 3 channels",
        ),
        (
            np.zeros((2, 80, 96), np.uint8),
            {**GRAY, **TILED, "metadata": {"axes": "CYX"}},
            "channels red, green and blue, got 2 channels",
        ),
        (
            np.zeros((5, 80, 96), np.uint8),
            {**GRAY, **TILED, "metadata": {"axes": "ZYX"}},
            "a single plane, got 5 of one size and one channel",
        ),
        (
            np.zeros((3, 80, 96), np.uint8),
            {**GRAY, "imagej": True, "metadata": {"axes": "CYX"}},
            "channels red, green and blue, got 3 channels",
        ),
    ],
)
def test_what_is_no_picture_of_8_bits_a_color_is_refused_by_what_it_is(tmp_path, data, options, got):
    path = tmp_path / ("a.tif" if options.get("imagej") else "a.ome.tif")
    tifffile.imwrite(path, data, **options)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: expected {got}')}$"):
        Slide(path)


def test_three_gray_pages_that_nothing_names_are_no_colors(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", PLANES, **GRAY, **TILED)
    with pytest.raises(
        ValueError, match=r"a\.tif: expected a single plane, got 3 of one size and one channel$"
    ):
        Slide(tmp_path / "a.tif")


@pytest.mark.parametrize(
    "options",
    [
        {"photometric": "rgb", "tile": (64, 80)},  # OpenSlide reads it
        {"photometric": "rgb"},  # Pillow reads it
    ],
)
def test_files_that_are_read_right_are_left_to_their_readers(tmp_path, slide_writer, options):
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, **options)
    slide_writer(tmp_path / "b.tif", (600, 500), levels=(1, 4))
    assert open_tiff_pages(tmp_path / "a.tif", 1) is None
    assert open_tiff_pages(tmp_path / "b.tif", 2) is None
    (tmp_path / "c.tif").write_bytes(b"II*\0 and nothing more")
    assert open_tiff_pages(tmp_path / "c.tif", 0) is None


@pytest.mark.parametrize(
    ("size", "mpp"),
    [
        (
            {
                "PhysicalSizeX": 0.5,
                "PhysicalSizeXUnit": "µm",
                "PhysicalSizeY": 0.5,
                "PhysicalSizeYUnit": "µm",
            },
            0.5,
        ),
        ({"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}, 0.5),  # microns, where no unit is stated
        (
            {
                "PhysicalSizeX": 250,
                "PhysicalSizeXUnit": "nm",
                "PhysicalSizeY": 2.5e-4,
                "PhysicalSizeYUnit": "mm",
            },
            0.25,
        ),
        (
            {
                "PhysicalSizeX": 0.5,
                "PhysicalSizeXUnit": "pixel",
                "PhysicalSizeY": 1,
                "PhysicalSizeYUnit": "pixel",
            },
            1.0,
        ),
        ({"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25}, 1.0),  # not square: the resolution is asked instead
        ({}, 1.0),
    ],
)
@pytest.mark.parametrize("reader", ["pages", "OpenSlide", "Pillow"])
def test_the_size_of_a_pixel_is_read_from_ome_xml(tmp_path, size, mpp, reader):
    data, options = {
        "pages": (PLANES, {**GRAY, **TILED, "metadata": {"axes": "CYX", **size}}),
        "OpenSlide": (PIXELS, {"photometric": "rgb", **TILED, "metadata": {"axes": "YXS", **size}}),
        "Pillow": (PIXELS, {"photometric": "rgb", "metadata": {"axes": "YXS", **size}}),
    }[reader]
    resolution = {"resolution": (1e4, 1e4), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "a.ome.tif", data, **options, **resolution)
    assert Slide(tmp_path / "a.ome.tif").mpp == pytest.approx(mpp)


def test_a_damaged_tile_names_its_place_and_leaves_the_rest_readable(tmp_path):
    data, options = LAYOUTS["three pages packed"]
    tifffile.imwrite(tmp_path / "a.ome.tif", data, **options)
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as file:
        start = file.pages[1].dataoffsets[0]
    content = bytearray((tmp_path / "a.ome.tif").read_bytes())
    content[start : start + 100] = bytes(100)
    (tmp_path / "a.ome.tif").write_bytes(content)
    slide = Slide(tmp_path / "a.ome.tif")
    with pytest.raises(ValueError, match=r"a\.ome\.tif: damaged at \(3, 4\), level 0, 5 x 6 \(tile 0: "):
        slide.region(3, 4, 5, 6)
    assert np.array_equal(slide.region(100, 70, 61, 53), PIXELS[70:123, 100:161])


@pytest.mark.skipif(importlib.util.find_spec("imagecodecs") is not None, reason="imagecodecs is there")
def test_what_only_imagecodecs_unpacks_says_so(tmp_path):
    for name, data, options in (
        ("a", PLANES, {**GRAY, "metadata": {"axes": "CYX"}}),
        ("b", PIXELS, {"photometric": "rgb", "metadata": {"axes": "YXS"}}),
    ):
        write_pyramid(tmp_path / f"{name}.ome.tif", data, steps=(1, 2), tile=(64, 64), **options)
        with tifffile.TiffFile(tmp_path / f"{name}.ome.tif", mode="r+b") as file:
            for page in file.pages:
                page.tags["Compression"].overwrite(5)
    text = "what packed its colors needs imagecodecs; install it with `pip install 'healnet[tiff]'`"
    with pytest.raises(ImportError, match=f"^{re.escape(f'{tmp_path}/a.ome.tif: {text}')}$"):
        Slide(tmp_path / "a.ome.tif")
    assert Slide(tmp_path / "b.ome.tif").level_downsamples == (1.0,)  # OpenSlide reads that one
