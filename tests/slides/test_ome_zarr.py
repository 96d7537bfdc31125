"""OME-Zarr folders as `zarr` writes them: the pixels, scale and features of a TIFF; anything else is refused."""

import asyncio
import csv
import json
import pickle
import re
import shutil

import numpy as np
import pytest
import tifffile
import torch
from zarr.api import asynchronous

from healnet.slides import Slide, extract_features, read_patches
from healnet.slides.extract import main
from healnet.slides.ome_zarr import OmeZarr, is_ome_zarr, is_zarr
from healnet.slides.slide_files import find_slide_files

MPP = 0.5


def shrunk(pixels):
    h, w, _ = pixels.shape
    return pixels.reshape(h // 2, 2, w // 2, 2, 3).mean((1, 3)).round().astype(np.uint8)


def picture():
    """Purple tissue whose color says where it is, on glass."""
    y, x = np.mgrid[:900, :1200]
    pixels = np.full((900, 1200, 3), (243, 242, 244), np.uint8)
    tissue = np.stack((120 + x % 61, 40 + y % 53, 150 + (x + y) % 67), axis=-1)
    pixels[150:700, 200:1000] = tissue[150:700, 200:1000]
    return pixels


LEVELS = [picture()]
for _ in range(2):
    LEVELS.append(shrunk(LEVELS[-1]))


def as_stored(pixels, names):
    """Pixels (y, x, c) in another order of axes; axes of other names have length 1."""
    there = [name for name in names if name in "yxc"]
    values = pixels.transpose(["yxc".index(name) for name in there])
    return values.reshape([values.shape[there.index(name)] if name in there else 1 for name in names])


def image_metadata(names, *, unit="micrometer", scale=MPP, levels=3):
    """The `multiscales` of NGFF 0.4, which are those of 0.5 but for the version."""
    kinds = {"c": "channel", "t": "time"}
    axes = [{"name": name, "type": kinds.get(name, "space")} for name in names]
    for axis in axes:
        if axis["type"] == "space" and unit is not None:
            axis["unit"] = unit
    datasets = [
        {
            "path": str(level),
            "coordinateTransformations": [
                {"type": "scale", "scale": [scale * 2**level if n in "xy" else 1.0 for n in names]}
            ],
        }
        for level in range(levels)
    ]
    return [{"version": "0.4", "axes": axes, "datasets": datasets}]


def write(path, names="yxc", chunks=(256, 256, 3), *, version="0.4", levels=LEVELS, group="", **settings):
    """An image by the package `zarr`, whose threads end with `asyncio.run`."""

    async def written():
        zarr_format = 2 if version == "0.4" else 3
        place = await asynchronous.open_group(path / group, mode="w", zarr_format=zarr_format)
        for number, pixels in enumerate(levels):
            values = as_stored(pixels, names)
            array = await place.create_array(
                str(number), shape=values.shape, dtype=values.dtype, chunks=chunks, **settings
            )
            await array.setitem(slice(None), values)
        image = image_metadata(names, levels=len(levels))
        held = {"multiscales": image}
        await place.update_attributes(held if zarr_format == 2 else {"ome": held | {"version": "0.5"}})

    asyncio.run(written())
    return path


VERSIONS = {
    "0.4": dict(version="0.4"),
    "0.5": dict(version="0.5", chunks=(64, 64, 3), shards=(256, 256, 3)),
    # As bioformats2raw writes them: five axes, each channel in chunks of its own.
    "0.4, tczyx": dict(version="0.4", names="tczyx", chunks=(1, 1, 1, 256, 256)),
    "0.5, cyx": dict(version="0.5", names="cyx", chunks=(2, 200, 300)),
}


@pytest.fixture(scope="module", params=VERSIONS)
def path(request, tmp_path_factory):
    return write(tmp_path_factory.mktemp("slides") / "slide.ome.zarr", **VERSIONS[request.param])


@pytest.fixture(scope="module")
def tiff(tmp_path_factory):
    path = tmp_path_factory.mktemp("slides") / "tiff.tif"
    with tifffile.TiffWriter(path) as writer:
        for level, pixels in enumerate(LEVELS):
            writer.write(
                pixels,
                tile=(128, 128),
                photometric="rgb",
                compression="zlib",
                subfiletype=int(level > 0),
                metadata=None,
                resolution=(1e4 / MPP / 2**level,) * 2,
                resolutionunit="CENTIMETER",
            )
    return path


@pytest.fixture
def plain(tmp_path):
    """A small image of version 0.4, to be changed."""
    return write(tmp_path / "a.ome.zarr", levels=[LEVELS[2][:64, :48]], chunks=(32, 48, 3), fill_value=9)


def change(path, edit, file=".zattrs"):
    held = json.loads((path / file).read_text())
    edit(held)
    (path / file).write_text(json.dumps(held))


def image_of(held):
    return held["multiscales"][0]


# Pixels, levels and scale


def test_every_pixel_of_every_level(path):
    handle = OmeZarr(path)
    assert (handle.dimensions, handle.level_downsamples) == ((1200, 900), (1.0, 2.0, 4.0))
    for level, pixels in enumerate(LEVELS):
        h, w, _ = pixels.shape
        whole = np.asarray(handle.read_region((0, 0), level, (w, h)))
        assert np.array_equal(whole[..., :3], pixels)
        assert (whole[..., 3] == 255).all()


def test_a_region_over_the_edge_is_transparent_there(path):
    region = np.asarray(OmeZarr(path).read_region((-14, 880), 1, (30, 40)))
    assert np.array_equal(region[:10, 7:, :3], LEVELS[1][440:, :23])
    assert (region[:10, 7:, 3] == 255).all()
    assert not region[10:].any()
    assert not region[:, :7].any()
    assert not np.asarray(OmeZarr(path).read_region((5000, 0), 0, (4, 4))).any()


def test_slide_and_tiff_are_alike(path, tiff):
    slide, other = Slide(path), Slide(tiff)
    assert (slide.name, slide.width, slide.height) == ("slide", 1200, 900)
    assert (slide.mpp, slide.magnification, slide.level_downsamples) == (0.5, 20.0, (1.0, 2.0, 4.0))
    assert slide.properties["openslide.mpp-x"] == "0.5"
    assert slide.properties["ome-zarr.version"] == ("0.4" if (path / ".zattrs").exists() else "0.5")
    assert np.array_equal(slide.as_array(mpp=2.0), other.as_array(mpp=2.0))
    assert np.array_equal(slide.thumbnail(200), other.thumbnail(200))
    tissue = slide.tissue()
    assert np.array_equal(tissue.mask, other.tissue().mask)
    assert tissue.area_mm2 == pytest.approx(800 * 550 * MPP**2 / 1e6, rel=0.1)  # closed at its edge
    for mpp in (0.5, 1.0, 1.5, 2.0):
        tiles, others = slide.tiles(64, mpp, tissue=tissue), other.tiles(64, mpp)
        assert np.array_equal(tiles.coords, others.coords)
        assert len(tiles) > 10
        for i in range(len(tiles)):
            assert torch.equal(tiles[i], others[i])
    slide.close()
    assert np.array_equal(
        pickle.loads(pickle.dumps(slide)).region(300, 300, 9, 8), LEVELS[0][300:308, 300:309]
    )


@pytest.mark.parametrize(
    ("unit", "scale", "mpp"),
    [
        ("nanometer", 250.0, 0.25),
        ("millimeter", 0.0005, 0.5),
        ("inch", 1e-5, 0.254),
        (None, 0.5, None),
        ([], 0.5, None),
        ("pixel", 0.5, None),
        ("meter", 0.5, None),  # no pixel of a slide: see `mpp_from_properties`
    ],
)
def test_microns_by_unit_and_never_guessed(plain, unit, scale, mpp):
    change(
        plain, lambda held: held.update(multiscales=image_metadata("yxc", unit=unit, scale=scale, levels=1))
    )
    assert Slide(plain).mpp == (None if mpp is None else pytest.approx(mpp))
    assert Slide(plain, mpp=0.3).mpp == 0.3


def test_no_scale_at_all_is_unknown(plain):
    change(plain, lambda held: image_of(held)["datasets"][0].pop("coordinateTransformations"))
    assert Slide(plain).mpp is None


def test_the_scale_of_the_whole_image_multiplies(plain):
    whole = [{"type": "identity"}, {"type": "scale", "scale": [0.5, 0.5, 1]}]
    change(plain, lambda held: image_of(held).update(coordinateTransformations=whole))
    assert Slide(plain).mpp == 0.25


def odd(path, **settings):
    """Levels of 101 x 67, 50 x 33 and 25 x 16 pixels: halved, and rounded down."""
    levels = [LEVELS[0][: 67 >> i, : 101 >> i] for i in range(3)]
    return write(path / "odd.ome.zarr", levels=levels, **settings)


def test_downsamples_are_those_of_the_scale_where_sizes_were_rounded(tmp_path):
    assert OmeZarr(odd(tmp_path)).level_downsamples == (1.0, 2.0, 4.0)


def test_downsamples_are_those_of_the_sizes_where_one_scale_stands_for_all(tmp_path):
    def same(held):
        for dataset in image_of(held)["datasets"]:
            dataset["coordinateTransformations"][0]["scale"] = [0.5, 0.5, 1.0]

    path = odd(tmp_path)
    change(path, same)
    assert OmeZarr(path).level_downsamples == pytest.approx(
        (1.0, (101 / 50 + 67 / 33) / 2, (101 / 25 + 67 / 16) / 2)
    )


def test_the_shift_of_a_mean_over_pixels_is_none(tmp_path):
    def shift(held):
        for level, dataset in enumerate(image_of(held)["datasets"]):
            step = MPP * (2**level - 1) / 2
            dataset["coordinateTransformations"].append(
                {"type": "translation", "translation": [step + 100, step - 100, 0]}
            )

    path = odd(tmp_path)
    change(path, shift)
    assert OmeZarr(path).level_downsamples == (1.0, 2.0, 4.0)


# Chunks that are not there


def test_a_chunk_left_out_is_of_the_fill_value(plain):
    """Nothing tells it from one of that value, which `zarr` leaves out."""
    (plain / "0" / "1.0.0").unlink()
    pixels = Slide(plain).as_array()
    assert np.array_equal(pixels[:32], LEVELS[2][:32, :48])
    assert (pixels[32:] == 9).all()


def test_a_chunk_left_out_without_a_fill_value_is_white(plain):
    (plain / "0" / "1.0.0").unlink()
    change(plain, lambda held: held.update(fill_value=None), "0/.zarray")
    pixels = Slide(plain).as_array()
    assert np.array_equal(pixels[:32], LEVELS[2][:32, :48])
    assert (pixels[32:] == 255).all()


def test_a_damaged_chunk_is_named_and_the_others_stay_readable(plain):
    (plain / "0" / "1.0.0").write_bytes(b"nonsense, but long enough")
    slide = Slide(plain)
    problem = "chunk 1/0/0 of '0': expected 1869357172 bytes of Blosc, got 25"
    expected = f"{plain}: damaged at (0, 20), level 0, 48 x 30 ({problem})"
    for _ in range(2):
        with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
            slide.region(0, 20, 48, 30)
    assert np.array_equal(slide.region(0, 0, 48, 32), LEVELS[2][:32, :48])


# Folders of several images


def as_bioformats2raw(path, **images):
    path.mkdir()
    (path / ".zgroup").write_text('{"zarr_format": 2}')
    (path / ".zattrs").write_text('{"bioformats2raw.layout": 3}')
    for number, pixels in images.items():
        write(path, levels=[pixels], chunks=(64, 64, 3), group=number.removeprefix("image"))
    return path


def test_image_0_of_bioformats2raw(tmp_path):
    """Beside it the slide's label, which is no reason for a warning."""
    path = as_bioformats2raw(tmp_path / "b.zarr", image0=LEVELS[2], image1=LEVELS[2][:40, :40])
    assert np.array_equal(Slide(path).as_array(), LEVELS[2])
    assert (Slide(path).name, Slide(path).mpp) == ("b", 0.5)
    assert np.array_equal(Slide(path / "1").as_array(), LEVELS[2][:40, :40])


def test_another_large_image_of_bioformats2raw_is_pointed_out(tmp_path):
    path = as_bioformats2raw(tmp_path / "b.zarr", image0=LEVELS[2], image1=LEVELS[2][:200])
    expected = (
        f"{path}: only image 0 is read, of 300 x 225 pixels; image 1 has 300 x 200, see Slide('{path}/1')"
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(expected)}$"):
        Slide(path)


def test_the_first_of_several_multiscales(plain):
    change(plain, lambda held: held["multiscales"].append({"name": "3D", "datasets": [{"path": "nowhere"}]}))
    assert Slide(plain).width == 48


# Extraction


def encode(tiles):
    return torch.cat((tiles.mean((2, 3)), tiles.square().mean((2, 3))), dim=1)


def extract(slides, output, **options):
    return extract_features(slides, encode, output, size=64, mpp=1.0, batch_size=8, progress=False, **options)


def features(folder, name):
    values, coords = read_patches(folder / f"{name}.h5").load()
    return values, coords


def test_features_by_worker_processes_are_those_of_the_tiff_bit_for_bit(path, tiff, tmp_path):
    results = extract([path, tiff], tmp_path, num_workers=2)
    assert [(result.slide, result.error) for result in results] == [("slide", ""), ("tiff", "")]
    assert results[0].tiles == results[1].tiles >= 20
    for found, expected in zip(features(tmp_path, "slide"), features(tmp_path, "tiff"), strict=True):
        assert torch.equal(found, expected)
    assert sorted(file.name for file in (tmp_path / "tissue").iterdir()) == [
        "slide.geojson",
        "slide.jpg",
        "tiff.geojson",
        "tiff.jpg",
    ]


def test_a_run_goes_on_and_reports_a_damaged_slide(path, tmp_path):
    shutil.copytree(path, tmp_path / "slides" / "good.ome.zarr")
    shutil.copytree(path, tmp_path / "slides" / "bad.ome.zarr")
    array = next((tmp_path / "slides" / "bad.ome.zarr" / "0").glob("*zarr*"))
    array.write_text("{")
    slides = find_slide_files(tmp_path / "slides")
    output = tmp_path / "out"
    for _ in range(2):
        bad, good = extract(slides, output, num_workers=0)
        assert (good.slide, good.error) == ("good", "")
        assert bad.error.startswith(f"ValueError: {slides[0]}: expected JSON in 0/")
        stamp = (output / "good.h5").stat().st_mtime_ns
    assert (output / "good.h5").stat().st_mtime_ns == stamp
    with (output / "qc.csv").open(newline="") as file:
        assert [row["slide"] for row in csv.DictReader(file)] == ["bad", "good"]


def test_the_command_takes_a_folder_itself_folders_of_them_and_lists(path, tmp_path, monkeypatch):
    (tmp_path / "encoders.py").write_text(
        "import torch\ndef mean():\n    return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "list.csv").write_text(f"slide,mpp\n{path},1.0\n")
    for number, places in enumerate(([path], [path.parent], [tmp_path / "list.csv"])):
        output = tmp_path / str(number)
        arguments = ["--output", output, "--encoder", "encoders:mean", "--workers", "0", "--no-progress"]
        assert main([str(part) for part in (*places, *arguments, "--size", "64", "--mpp", "1.0")]) == 0
        assert read_patches(output / "slide.h5").footprint == (64 if number == 2 else 128)


# What is found, and what is refused


@pytest.mark.posix
def test_folders_of_zarr_are_found_whole_and_those_of_tables_are_not(plain, tmp_path):
    write(tmp_path / "sub" / "b.zarr", levels=[LEVELS[2]])
    (tmp_path / "linked.zarr").symlink_to(plain)
    (tmp_path / "empty.ome.zarr").mkdir()
    table = tmp_path / "table.zarr"
    asyncio.run(asynchronous.open_group(table, mode="w", zarr_format=3))
    (tmp_path / ".hidden.ome.zarr").mkdir()
    (plain / "0" / "thumbnail.svs").touch()
    expected = [tmp_path / "a.ome.zarr", tmp_path / "empty.ome.zarr", tmp_path / "linked.zarr"]
    assert find_slide_files(tmp_path) == [*expected, tmp_path / "sub" / "b.zarr"]
    assert find_slide_files(plain) == [plain]
    assert (is_zarr(table), is_ome_zarr(table), is_zarr(tmp_path)) == (True, False, False)


def test_other_folders_are_refused(tmp_path):
    expected = (
        f"{tmp_path}: expected a regular file or an OME-Zarr folder, got another folder, pipe or device"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        Slide(tmp_path)


def edit_image(**changes):
    return lambda held: image_of(held).update(changes)


def edit_dataset(**changes):
    return lambda held: image_of(held)["datasets"][0].update(changes)


def edit_axis(number, **changes):
    return lambda held: image_of(held)["axes"][number].update(changes)


def colors(*names):
    return lambda held: held.update(omero={"channels": [{"color": name} for name in names]})


SCALE = "expected a scale above 0 or a translation, of 3 numbers, got "


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda held: held.pop("multiscales"), "expected an image with `multiscales`, got []"),
        (
            lambda held: held.update(multiscales=[]),
            "expected an image with `multiscales`, got ['multiscales']",
        ),
        (lambda held: held.update({"image-label": {}}), "expected a slide, got the labels of one"),
        (
            edit_image(axes=["y", "x", "c"], version="0.3"),
            "expected axes as of NGFF 0.4 or 0.5, got ['y', 'x', 'c'] of version 0.3",
        ),
        (edit_image(axes=None), "expected `axes` as a list, got None"),
        (edit_axis(0, name="row"), "expected axes x, y and one of channels, got ['row', 'x', 'c']"),
        (edit_axis(2, type="space"), "expected axes x, y and one of channels, got ['y', 'x', 'c']"),
        (
            edit_image(axes=[{"name": "y"}, {"name": "x"}]),
            "expected axes x, y and one of channels, got ['y', 'x']",
        ),
        (
            lambda held: image_of(held)["axes"].insert(0, {"name": "z"}),
            "expected 4 axes of the array '0', got shape (64, 48, 3)",
        ),
        (edit_image(datasets=[]), "expected datasets, got none"),
        (edit_dataset(path="1"), "expected an array '1', got none"),
        (edit_dataset(path=7), "expected datasets with paths, got {'path': 7, "),
        (
            edit_dataset(path="../../secret"),
            "../../secret/zarr.json: expected a file in the slide's folder, got a link to another place",
        ),
        (
            edit_dataset(coordinateTransformations=[{"type": "scale", "scale": [1, 0, 1]}]),
            SCALE + "{'type': 'scale', 'scale': [1, 0, 1]}",
        ),
        (
            edit_dataset(coordinateTransformations=[{"type": "scale", "scale": [1, float("nan"), 1]}]),
            SCALE + "{'type': 'scale', 'scale': [1, nan, 1]}",
        ),
        (
            edit_dataset(coordinateTransformations=[{"type": "scale", "scale": [1, 10**400, 1]}]),
            SCALE + "{'type': 'scale', 'scale': [1, 1000000",
        ),
        (
            edit_dataset(coordinateTransformations=[{"type": "scale", "path": "scales"}]),
            SCALE + "{'type': 'scale', 'path': 'scales'}",
        ),
        (
            edit_image(coordinateTransformations=[{"type": "affine", "affine": [1, 0, 0]}]),
            SCALE + "{'type': 'affine', 'affine': [1, 0, 0]}",
        ),
        (
            edit_image(coordinateTransformations=[{"type": "scale", "scale": [1e9, 1e9, 1]}] * 4),
            "expected a scale and a shift of a level and of the whole image, got 5",
        ),
        (
            colors("0000FF", "00FF00", "FF0000"),
            "expected channels red, green and blue, got the colors 0000FF, 00FF00, FF0000",
        ),
    ],
)
def test_images_that_are_refused(plain, edit, problem):
    change(plain, edit)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{plain}: {problem}')}"):
        Slide(plain)


def test_colors_of_rgb_and_colors_that_say_nothing(plain):
    for names in (("ff0000", "00ff00", "0000ff"), ("FFFFFF",) * 3):
        change(plain, colors(*names))
        assert Slide(plain).width == 48


@pytest.mark.parametrize(
    ("names", "shape", "kind", "problem"),
    [
        ("cyx", (5, 20, 30), "u1", "expected three channels, red, green and blue, got 5"),
        ("cyx", (3, 20, 30), "u2", "expected pixels of type uint8, got '<u2'"),
        ("tcyx", (2, 3, 20, 30), "u1", "expected a single plane, got 2 along t"),
        ("czyx", (3, 4, 20, 30), "u1", "expected a single plane, got 4 along z"),
    ],
)
def test_arrays_that_are_no_slides(tmp_path, names, shape, kind, problem):
    path = tmp_path / "a.zarr"

    async def written():
        group = await asynchronous.open_group(path, mode="w", zarr_format=2)
        array = await group.create_array("0", shape=shape, dtype=kind, chunks=shape)
        await array.setitem(slice(None), np.ones(shape, kind))
        await group.update_attributes({"multiscales": image_metadata(names, levels=1)})

    asyncio.run(written())
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: {problem}')}$"):
        Slide(path)


@pytest.mark.parametrize(
    ("sizes", "shift", "problem"),
    [
        (
            ((64, 48), (64, 24)),
            0,
            "expected levels from large to small that shrink x and y alike, got (48, 64) and (24, 64)",
        ),
        (
            ((64, 48), (128, 96)),
            0,
            "expected levels from large to small that shrink x and y alike, got (48, 64) and (96, 128)",
        ),
        (
            ((64, 48), (16, 12), (32, 24)),
            0,
            "expected levels from large to small that shrink x and y alike, got (48, 64) and (24, 32)",
        ),
        (
            ((64, 48), (32, 24)),
            30,
            "expected levels from one corner, got level 1 moved by [30.0, 0.0] pixels",
        ),
    ],
)
def test_levels_that_are_no_pyramid(tmp_path, sizes, shift, problem):
    levels = [LEVELS[0][200 : 200 + h, 300 : 300 + w] for h, w in sizes]
    path = write(tmp_path / "a.zarr", levels=levels, chunks=(32, 32, 3))
    moved = {"type": "translation", "translation": [0, shift * 2 * MPP, 0]}
    change(path, lambda held: image_of(held)["datasets"][1]["coordinateTransformations"].append(moved))
    # In other units of the whole image the levels lie to one another as before.
    whole = [{"type": "scale", "scale": [50, 50, 1]}]
    change(path, lambda held: image_of(held).update(coordinateTransformations=whole))
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: {problem}')}$"):
        Slide(path)


def test_an_array_a_folder_that_is_empty_and_the_files_of_others(tmp_path):
    write(tmp_path / "a.zarr", version="0.5", levels=[LEVELS[2]])
    (tmp_path / "b.ome.zarr").mkdir()
    for path, problem in (
        (tmp_path / "a.zarr" / "0", "expected an image with `multiscales`, got []"),
        (tmp_path / "b.ome.zarr", "expected a group of Zarr's in the folder, got none"),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: {problem}')}$"):
            Slide(path)
