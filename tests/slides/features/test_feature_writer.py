"""Feature files hold what was written, in each tool's layout, and are known again by their own run alone."""

import math
import os
import random
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from healnet.slides.features.feature_writer import (
    ExtractionSettings,
    FeatureFolder,
    FeatureWriter,
    finished_result,
)
from healnet.slides.features.trident_clam_reader import read_patches
from healnet.slides.slide import Slide
from healnet.slides.tile_encoder import TileEncoder

SETTINGS = ExtractionSettings(size=64, mpp=0.5, overlap=0, tissue_fraction=0.0, min_sharpness=0.0)
NOTES = {"tissue_mm2": 0.5, "pen": 0.25, "blur": 0.0, "sharpness": 9.0, "seconds": 2.0}


def mean(tiles):
    return tiles.mean((2, 3))


def target(folder, encoder=mean, name="mean", layout="trident"):
    encode = TileEncoder(encoder, torch.device("cpu"), None)
    result = FeatureFolder(folder, name, encode, encode.probe(64, None), layout)
    for file in result.files("any"):
        file.parent.mkdir(parents=True, exist_ok=True)
    return result


def batches(*lengths):
    return [np.full((n, 3), i, np.float32) for i, n in enumerate(lengths)]


def write(folder, slide, features=None, kept=None, settings=SETTINGS):
    tiles = slide.tiles(64, 0.5, tissue_fraction=0)
    with FeatureWriter.writing(folder, tiles, settings, "tissue") as writer:
        for batch in batches(4, 2) if features is None else features:
            writer.append(batch)
        writer.finish(np.ones(len(tiles), bool) if kept is None else kept, NOTES)
    return tiles


@pytest.fixture(scope="module")
def slide(slide_writer, tmp_path_factory):
    return Slide(slide_writer(tmp_path_factory.mktemp("slides") / "a.tif", (150, 100), levels=(1,)))


def test_batches_follow_one_another_and_are_known_again(slide, tmp_path):
    folder = target(tmp_path)
    tiles = write(folder, slide)
    bag = read_patches(tmp_path / "a.h5")
    features, coords = bag.load()
    assert features[:, 0].tolist() == [0, 0, 0, 0, 1, 1]
    assert coords.tolist() == tiles.coords.tolist()
    assert (bag.slide, bag.encoder, bag.footprint) == ("a", "mean", 64.0)
    result = finished_result(folder, "a", SETTINGS, "tissue", slide_size=(150, 100))
    assert result._asdict() == {"slide": "a", "tiles": 6, "error": ""} | NOTES


def test_tiles_that_were_left_out_have_no_row(slide, tmp_path):
    kept = np.array([True, False, True, True, False, True])
    tiles = write(target(tmp_path), slide, batches(1, 3), kept)
    features, coords = read_patches(tmp_path / "a.h5").load()
    assert features[:, 0].tolist() == [0, 1, 1, 1]
    assert coords.tolist() == tiles.coords[kept].tolist()


def test_rows_must_add_up_be_finite_and_be_of_the_probes_kind(slide, tmp_path):
    folder = target(tmp_path)
    with pytest.raises(ValueError, match=r"^a: expected features of 6 tiles, got 5$"):
        write(folder, slide, batches(5))
    bad = batches(4, 2)
    bad[1][1, 2] = np.inf
    with pytest.raises(
        ValueError, match=r"^a: the encoder made features that are not finite of the tile in row 5$"
    ):
        write(folder, slide, bad)
    with pytest.raises(
        ValueError, match=r"^a: expected float32 features of width 3, .*, got float64 of width 3$"
    ):
        write(folder, slide, [np.zeros((6, 3))])
    assert list(tmp_path.iterdir()) == []


def test_clams_layout_is_what_clams_own_loaders_read(slide, tmp_path):
    folder = target(tmp_path, layout="clam")
    tiles = write(folder, slide)
    tensor = torch.load(tmp_path / "pt_files" / "a.pt", weights_only=True)
    with (
        h5py.File(tmp_path / "h5_files" / "a.h5") as file,
        h5py.File(tmp_path / "patches" / "a.h5") as patches,
    ):
        assert np.array_equal(tensor.numpy(), file["features"][:])
        assert np.array_equal(patches["coords"][:], file["coords"][:])
        notes = patches["coords"].attrs
        # CLAM's own arithmetic: the level-0 side is patch_size times the downsample of patch_level.
        side = notes["patch_size"] * notes["downsample"][0]
        assert (notes["patch_level"], side, notes["name"]) == (0, tiles.footprint, b"a")
    assert read_patches(tmp_path / "pt_files" / "a.pt").footprint == 64.0
    assert finished_result(folder, "a", SETTINGS, "tissue").tiles == 6


@pytest.mark.parametrize("mpp", [0.25, 0.2325, 0.2525, 0.499])
def test_tridents_own_arithmetic_gives_the_true_side_at_any_mpp(slide_writer, tmp_path, mpp):
    slide = Slide(slide_writer(tmp_path / "a.tif", (600, 600), levels=(1,)), mpp=mpp)
    tiles = slide.tiles(256, 0.5, tissue_fraction=0)
    settings = ExtractionSettings(256, 0.5, 0, 0.0, 0.0)
    with FeatureWriter.writing(target(tmp_path), tiles, settings, "tissue") as writer:
        writer.append(np.zeros((len(tiles), 3), np.float32))
        writer.finish(np.ones(len(tiles), bool), NOTES)
    with h5py.File(tmp_path / "a.h5") as file:
        notes = dict(file["coords"].attrs)
    computed = notes["patch_size"] * notes["level0_magnification"] / notes["target_magnification"]
    # TRIDENT truncates or rounds, by version.
    assert round(computed) == notes["patch_size_level0"] == tiles.footprint == round(256 * 0.5 / mpp)


@pytest.mark.parametrize(
    "changed", [{"size": 32}, {"mpp": 1.0}, {"overlap": 8}, {"tissue_fraction": 0.5}, {"min_sharpness": 3.0}]
)
def test_files_of_any_other_setting_are_refused(slide, tmp_path, changed):
    folder = target(tmp_path)
    write(folder, slide)
    values = {
        key: getattr(SETTINGS, key) for key in ("size", "mpp", "overlap", "tissue_fraction", "min_sharpness")
    }
    (key,) = changed
    with pytest.raises(
        ValueError, match=r"a\.h5: made with .*; write to another folder, or remove"
    ) as raised:
        finished_result(folder, "a", ExtractionSettings(**(values | changed)), "tissue")
    assert f"{'patch_size' if key == 'size' else key} {changed[key]}" in str(raised.value)


def test_another_selection_size_or_scale_of_the_slide_is_refused(slide, tmp_path):
    folder = target(tmp_path)
    write(folder, slide)
    for options, text in (
        ({"selection": "mask 0123"}, "selection tissue, this run has selection mask 0123"),
        ({"slide_size": (300, 100)}, "size of the slide 150 x 100, this run has size of the slide 300 x 100"),
        ({"slide_mpp": 0.25}, "level0_mpp 0.5, this run has level0_mpp 0.25"),
    ):
        with pytest.raises(ValueError, match=f"a\\.h5: made with {text}; "):
            finished_result(folder, "a", SETTINGS, **({"selection": "tissue"} | options))


@pytest.mark.parametrize(
    ("encoder", "text"),
    [
        (
            lambda tiles: tiles.mean((2, 3)) - 0.5,
            r"another encoder or another normalization .* differ by \d+%\)",
        ),
        (
            lambda tiles: tiles.mean((2, 3)) @ torch.eye(3).flip(0),
            r"another encoder or another normalization",
        ),
        (lambda tiles: torch.cat([tiles.mean((2, 3))] * 2, 1), r"features of width 3, this encoder gives 6"),
    ],
)
def test_another_encoder_of_the_same_name_is_refused(slide, tmp_path, encoder, text):
    write(target(tmp_path), slide)
    with pytest.raises(ValueError, match=rf"a\.h5: made with {text}"):
        finished_result(target(tmp_path, encoder), "a", SETTINGS, "tissue")


def test_rounding_makes_no_other_encoder(slide, tmp_path):
    write(target(tmp_path), slide)
    half = lambda tiles: tiles.bfloat16().mean((2, 3)).float()  # noqa: E731
    assert finished_result(target(tmp_path, half), "a", SETTINGS, "tissue").tiles == 6


def test_what_is_no_finished_file(tmp_path, caplog):
    folder = target(tmp_path)
    assert finished_result(folder, "a", SETTINGS, "tissue") is None
    assert not caplog.records
    (tmp_path / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    assert finished_result(folder, "a", SETTINGS, "tissue") is None
    assert caplog.records[0].getMessage().startswith(f"{tmp_path / 'a.h5'}: expected a feature file")
    assert caplog.records[0].getMessage().endswith("; it is made again")


@pytest.mark.posix
def test_a_file_that_cannot_be_read_is_not_taken_for_a_damaged_one(slide):
    with tempfile.TemporaryDirectory() as name:
        folder = target(Path(name))
        write(folder, slide)
        Path(name).chmod(0o755)
        (Path(name) / "a.h5").chmod(0)
        user = os.geteuid()
        if user == 0:  # root may read everything
            os.seteuid(65534)
        try:
            with pytest.raises(PermissionError):
                finished_result(folder, "a", SETTINGS, "tissue")
        finally:
            os.seteuid(user)


@pytest.mark.parametrize("coords", [True, False])
def test_a_file_of_another_tool_is_neither_taken_for_ones_own_nor_overwritten(tmp_path, coords):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["features"] = np.ones((5, 3), np.float32)
        if coords:
            file["coords"] = np.ones((5, 2), int)
            file["coords"].attrs["patch_size"] = 64
    with pytest.raises(
        ValueError,
        match=r"a\.h5: made with .*mpp None, overlap None, tissue_fraction None, .* encoder None, this",
    ):
        finished_result(target(tmp_path), "a", SETTINGS, "tissue")


def test_flipped_bits_do_not_read_as_numbers(slide_writer, tmp_path):
    """Of 300 single flipped bits, all but a few raise; without checksums 298 of 300 went unnoticed."""
    slide = Slide(slide_writer(tmp_path / "a.tif", (1024, 1024), levels=(1,)))
    tiles = slide.tiles(64, 0.5, tissue_fraction=0)
    features = np.random.default_rng(0).normal(size=(len(tiles), 3)).astype(np.float32)
    with FeatureWriter.writing(target(tmp_path), tiles, SETTINGS, "tissue") as writer:
        writer.append(features)
        writer.finish(np.ones(len(tiles), bool), NOTES)
    path = tmp_path / "a.h5"
    whole, draw, unnoticed = path.read_bytes(), random.Random(0), 0
    for _ in range(300):
        data = bytearray(whole)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        try:
            values, coords = read_patches(path).load()
        except ValueError:
            continue
        unnoticed += not (np.array_equal(values, features) and np.array_equal(coords, tiles.coords))
    assert unnoticed == 0


@pytest.mark.parametrize(
    "changed",
    [
        {"size": 0},
        {"mpp": 0.0},
        {"mpp": math.nan},
        {"overlap": 64},
        {"tissue_fraction": 2.0},
        {"min_sharpness": -1.0},
    ],
)
def test_settings_that_cannot_be(changed):
    values = {"size": 64, "mpp": 0.5, "overlap": 0, "tissue_fraction": 0.1, "min_sharpness": 0.0} | changed
    expected = "expected size >= 1, 0 <= overlap < size, mpp > 0, 0 <= tissue_fraction <= 1 and min_sharpness >= 0, got size"
    with pytest.raises(ValueError, match=f"^{expected}"):
        ExtractionSettings(**values)
