"""Feature files are whole, right, and the same however often the run was killed."""

import csv
import gc
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import tifffile
import torch
from torch import nn

from healnet.slides import extract_features
from healnet.slides.extract import main
from healnet.slides.extraction.first_look import SlideJob
from healnet.slides.features.trident_clam_reader import read_patches
from healnet.slides.slide import Slide

TISSUE = (150, 80, 160)


def texture(x, y):
    x, y = np.broadcast_arrays(x, y)
    return np.stack((120 + x % 61, 40 + y % 53, 150 + (x + y) % 67), axis=-1).astype(np.uint8)


def moments(tiles):
    """A small deterministic encoder: (b, 3, s, s) to (b, 6)."""
    return torch.cat((tiles.mean((2, 3)), tiles.square().mean((2, 3))), dim=1)


@pytest.fixture(scope="module")
def slides(slide_writer, tmp_path_factory):
    """Three slides of 20, 12 and 0 tiles of 64 pixels."""
    folder = tmp_path_factory.mktemp("slides")
    rectangles = {"a": [(128, 192, 448, 448, "texture")], "b": [(64, 64, 256, 320, "texture")], "c": []}
    for name, painted in rectangles.items():
        slide_writer(folder / f"{name}.tif", (600, 500), painted, levels=(1,), tile=128, texture=texture)
    return [folder / f"{name}.tif" for name in rectangles]


def extract(slides, output, encoder=moments, **options):
    defaults = {"size": 64, "tissue_fraction": 0.75, "batch_size": 8, "num_workers": 0, "progress": False}
    return extract_features(slides, encoder, output, **(defaults | options))


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_features_are_those_of_the_tiles_in_tridents_format(slides, tmp_path):
    reports = extract(slides, tmp_path, num_workers=2)
    assert [(r.slide, r.tiles, r.error) for r in reports] == [("a", 20, ""), ("b", 12, ""), ("c", 0, "")]
    tiles = Slide(slides[0]).tiles(size=64, mpp=0.5, tissue_fraction=0.75)
    expected = moments(torch.stack([tiles[i] for i in range(20)]).float() / 255)
    with h5py.File(tmp_path / "a.h5") as file:
        assert sorted(file) == ["coords", "features"]
        assert file["features"].dtype == np.float32
        np.testing.assert_allclose(file["features"][:], expected, rtol=1e-6)
        assert file["coords"].dtype == np.int64
        assert np.array_equal(file["coords"][:], tiles.coords)
        assert dict(file["coords"].attrs) == {
            "patch_size": 64,
            "patch_size_level0": 64,
            "level0_magnification": 20.0,
            "target_magnification": 20.0,
            "overlap": 0,
            "name": b"a",
            "savetodir": str(tmp_path).encode(),
            "selection": b"tissue",
            "min_sharpness": 0.0,
            "level0_width": 600,
            "level0_height": 500,
            "mpp": 0.5,
            "level0_mpp": pytest.approx(0.5),
            "tissue_fraction": 0.75,
        }
        notes = dict(file["features"].attrs)
        probe = notes.pop("probe")
        assert notes == {"name": b"a", "encoder": b"moments", "savetodir": str(tmp_path).encode()}
        assert probe.shape == (12,)  # two tiles of six values
    bag = read_patches(tmp_path / "a.h5")
    assert (bag.slide, bag.encoder, bag.footprint, bag.num_patches, bag.dim) == ("a", "moments", 64.0, 20, 6)


def test_a_slide_without_tissue_has_an_empty_file_of_the_right_width(slides, tmp_path):
    extract(slides[2:], tmp_path)
    bag = read_patches(tmp_path / "c.h5")
    assert (bag.num_patches, bag.dim) == (0, 6)


def test_the_quality_control_table_and_pictures(slides, tmp_path):
    extract(slides, tmp_path)
    rows = table(tmp_path / "qc.csv")
    assert list(rows[0]) == ["slide", "tiles", "tissue_mm2", "pen", "blur", "sharpness", "seconds", "error"]
    assert [(row["slide"], row["tiles"]) for row in rows] == [("a", "20"), ("b", "12"), ("c", "0")]
    assert float(rows[0]["tissue_mm2"]) == pytest.approx(320 * 256 * 0.25e-6, rel=0.25)
    assert float(rows[2]["tissue_mm2"]) == 0
    assert all(float(row["seconds"]) > 0 for row in rows)
    assert sorted(p.name for p in (tmp_path / "tissue").iterdir()) == [
        f"{name}.{suffix}" for name in "abc" for suffix in ("geojson", "jpg")
    ]


def test_a_bad_slide_is_reported_and_the_others_are_done(slides, tmp_path, capfd):
    bad = [tmp_path / name for name in ("bad.tif", "absent.tif", "aa.tif")]
    bad[0].write_text("not a slide")
    data = bytearray(slides[0].read_bytes())
    with tifffile.TiffFile(slides[0]) as file:
        start, length = file.pages[0].dataoffsets[12], file.pages[0].databytecounts[12]
    data[start : start + length] = bytes(length)
    bad[2].write_bytes(data)
    reports = {
        r.slide: r for r in extract([*slides, *bad], tmp_path / "out", num_workers=1, tissue_fraction=0)
    }
    assert {name for name, report in reports.items() if not report.error} == {"a", "b", "c"}
    assert reports["bad"].error == (
        f"ValueError: {bad[0]}: OpenSlide cannot read this file (Unsupported or missing image file)"
    )
    assert reports["absent"].error == f"FileNotFoundError: {bad[1]}: no such slide"
    assert re.match(
        rf"ValueError: {bad[2]}: damaged at \(\d+, \d+\), level 0, 64 x 64 \(", reports["aa"].error
    )
    assert sorted(p.name for p in (tmp_path / "out").glob("*")) == [
        ".locks",
        "a.h5",
        "b.h5",
        "c.h5",
        "qc.csv",
        "tissue",
    ]
    assert {row["slide"]: bool(row["error"]) for row in table(tmp_path / "out" / "qc.csv")} == {
        "a": False, "aa": True, "absent": True, "b": False, "bad": True, "c": False
    }  # fmt: skip
    # Workers of the slides after a bad one inherit nothing of its loader. Older OpenSlides print what libtiff says.
    printed = capfd.readouterr().err.splitlines()
    assert [line for line in printed if not line.startswith("ZIPDecode: ")] == []
    # The next run tries the bad ones again, and them alone.
    bad[0].write_bytes(slides[1].read_bytes())
    stamp = (tmp_path / "out" / "a.h5").stat().st_mtime_ns
    reports = {r.slide: r for r in extract([*slides, *bad], tmp_path / "out", tissue_fraction=0)}
    assert not reports["bad"].error
    assert (tmp_path / "out" / "a.h5").stat().st_mtime_ns == stamp


def test_a_failed_slide_leaves_no_loader_behind(slides, tmp_path):
    """One in a reference cycle would live on in the next slide's workers and wait there for workers not its own."""
    data = bytearray(slides[0].read_bytes())
    with tifffile.TiffFile(slides[0]) as file:
        start = file.pages[0].dataoffsets[12]
    data[start : start + 100] = bytes(100)
    (tmp_path / "a.tif").write_bytes(data)
    gc.collect()
    gc.disable()
    try:
        (report,) = extract([tmp_path / "a.tif"], tmp_path / "out", num_workers=1, tissue_fraction=0)
        alive = [object_ for object_ in gc.get_objects() if "DataLoaderIter" in type(object_).__name__]
    finally:
        gc.enable()
    assert "damaged at" in report.error
    assert not alive


def test_finished_slides_are_not_redone_and_keep_their_row(slides, tmp_path):
    first = extract(slides, tmp_path)
    calls = []

    def counting(tiles):
        calls.append(len(tiles))
        return moments(tiles)

    second = extract(slides, tmp_path, counting, encoder_name="moments")
    assert calls == [1, 2]  # the probe
    assert [r[:3] for r in second] == [r[:3] for r in first]
    assert [row["tiles"] for row in table(tmp_path / "qc.csv")] == ["20", "12", "0"]


def test_other_settings_are_refused_before_any_work(slides, tmp_path):
    extract(slides[:1], tmp_path)
    text = (
        f"{tmp_path / 'a.h5'}: made with patch_size 64, encoder moments, this run has patch_size 32, encoder other; "
        "write to another folder, or remove the old files"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        extract(slides, tmp_path, size=32, encoder_name="other")
    assert not (tmp_path / "b.h5").exists()
    # The same slide at another scale would be cut into other tiles.
    text = f"{tmp_path / 'a.h5'}: made with level0_mpp 0.5, this run has level0_mpp 0.25; "
    with pytest.raises(ValueError, match=f"^{re.escape(text)}"):
        extract(slides, tmp_path, slide_mpp={"a": 0.25})
    assert [r.error for r in extract(slides[:1], tmp_path, slide_mpp=0.5)] == [""]


def test_a_damaged_file_and_what_killed_runs_left_are_replaced(slides, tmp_path):
    extract(slides[:1], tmp_path)
    whole = (tmp_path / "a.h5").read_bytes()
    (tmp_path / "a.h5").write_bytes(whole[:3000])
    (tmp_path / ".a.h5.0123.part").write_bytes(whole[:100])
    (tmp_path / ".z.h5.0123.part").touch()  # of a slide that another run may be at
    extract(slides[:1], tmp_path)
    assert read_patches(tmp_path / "a.h5").num_patches == 20
    assert sorted(p.name for p in tmp_path.glob(".*")) == [".locks", ".z.h5.0123.part"]


def test_names_and_scales(slides, slide_writer, tmp_path):
    twin = tmp_path / "a.tif"
    slide_writer(twin, (800, 800), [(0, 0, 800, 800, TISSUE)], levels=(1,), mpp=None)
    with pytest.raises(ValueError, match=r"^expected slides of different names, got .*a\.tif and .*a\.tif$"):
        extract([*slides, twin], tmp_path / "out")
    (report,) = extract([twin], tmp_path / "out")
    assert report.error.endswith(
        "the file does not say its microns per pixel; say it yourself: slide_mpp={'a': ...} (--slide-mpp), "
        "or one number for all slides"
    )
    (report,) = extract([twin], tmp_path / "out", slide_mpp={"a": 0.25})
    assert (report.error, report.tiles) == ("", 36)
    assert read_patches(tmp_path / "out" / "a.h5").footprint == 128.0


class Small(nn.Module):
    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.linear = nn.Linear(3, 5)
        self.linear.eval()
        self.dtype = dtype

    def forward(self, tiles):
        return self.drop(self.linear(tiles.mean((2, 3)))).to(self.dtype)


def test_precision_of_the_encoder_and_of_autocast_reaches_the_file(slides, tmp_path):
    torch.manual_seed(0)
    model = Small()
    extract(slides[1:2], tmp_path / "full", model)
    extract(slides[1:2], tmp_path / "half", model, autocast=torch.bfloat16)
    extract(slides[1:2], tmp_path / "stored", Small(torch.float16))
    full, half, stored = (read_patches(tmp_path / name / "b.h5") for name in ("full", "half", "stored"))
    assert 0 < (full.load()[0] - half.load()[0]).abs().max() < 0.05
    assert stored.features.dtype == "float16"


def test_a_module_runs_in_evaluation_mode_and_gets_its_own_back(slides, tmp_path):
    model = Small()
    extract(slides[1:2], tmp_path / "first", model)
    extract(slides[1:2], tmp_path / "second", model)
    assert (model.training, model.drop.training, model.linear.training) == (True, True, False)
    first, second = (read_patches(tmp_path / name / "b.h5") for name in ("first", "second"))
    assert first.encoder == "Small"
    assert torch.equal(first.load()[0], second.load()[0])


def test_a_transform_replaces_the_scaling(slides, tmp_path):
    extract(slides[1:2], tmp_path / "plain")
    extract(slides[1:2], tmp_path / "shifted", transform=lambda tile: tile.float() / 255 - 0.5)
    plain, shifted = (read_patches(tmp_path / name / "b.h5").load()[0] for name in ("plain", "shifted"))
    torch.testing.assert_close(plain[:, :3] - 0.5, shifted[:, :3])


def test_a_broken_encoder_shows_before_any_slide_is_read(tmp_path):
    with pytest.raises(
        ValueError, match=r"^expected an encoder that returns \(1, d\) for 1 tiles, got \(1, 3, 64, 64\)$"
    ):
        extract([tmp_path / "absent.tif"], tmp_path, torch.sin)


def test_features_that_are_not_finite_are_the_slides_error(slides, tmp_path):
    def inverse_spread(tiles):  # tiles of one color have none
        return 1 / tiles.amax((2, 3)).sub(tiles.amin((2, 3)))

    (report,) = extract(slides[:1], tmp_path, inverse_spread, tissue_fraction=0)
    assert report.error == "ValueError: a: the encoder made features that are not finite of the tile in row 0"
    assert not (tmp_path / "a.h5").exists()


def test_settings_that_cannot_be(slides, tmp_path):
    with pytest.raises(
        ValueError, match=r"got size 64, overlap 64, mpp 0\.5, tissue_fraction 0\.75, min_sharpness 0\.0$"
    ):
        extract(slides, tmp_path, overlap=64)


def test_an_interrupted_run_leaves_its_table(slides, tmp_path):
    calls = []

    def interrupted(tiles):
        calls.append(len(tiles))
        if sum(calls) > 24:  # the probe, the 20 tiles of a, some of b
            raise KeyboardInterrupt
        return moments(tiles)

    with pytest.raises(KeyboardInterrupt):
        extract(slides, tmp_path, interrupted)
    assert [row["slide"] for row in table(tmp_path / "qc.csv")] == ["a"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [".locks", "a.h5", "qc.csv", "tissue"]


def test_the_bar_shows_slides_rate_and_time_left(slides, tmp_path, capsys):
    extract(slides, tmp_path, progress=True)
    shown = capsys.readouterr().err
    assert re.search(r"100%\|█+\| 3\.0/3 slides \[\d\d:\d\d<\d\d:\d\d, \d+ tiles/s, b\]", shown)
    extract(slides, tmp_path, progress=False)
    assert capsys.readouterr().err == ""


def test_runs_of_another_encoder_or_of_another_slide_of_the_name_are_refused_before_any_work(
    slides, tmp_path
):
    extract(slides[:1], tmp_path, encoder_name="e")
    for encoder, text in (
        (lambda tiles: moments(tiles)[:, :3], "features of width 6, this encoder gives 3"),
        (lambda tiles: moments(tiles - 0.5), "another encoder or another normalization of the tiles"),
    ):
        with pytest.raises(ValueError, match=rf"a\.h5: made with {text}"):
            extract(slides, tmp_path, encoder, encoder_name="e")
    with pytest.raises(ValueError, match=r"another encoder or another normalization of the tiles"):
        extract(slides, tmp_path, encoder_name="e", transform=lambda tile: tile.float() / 255 - 0.5)
    (tmp_path / "other").mkdir()
    twin = tmp_path / "other" / "a.tif"
    twin.write_bytes(slides[1].read_bytes())  # 600 x 500 too
    with tifffile.TiffFile(twin) as file:
        place = file.pages[0].tags["ImageWidth"].valueoffset
    data = bytearray(twin.read_bytes())
    data[place : place + 2] = (599).to_bytes(2, "little")
    twin.write_bytes(data)
    with pytest.raises(
        ValueError, match=r"size of the slide 600 x 500, this run has size of the slide 599 x 500; "
    ):
        extract([twin], tmp_path, encoder_name="e")
    assert sorted(p.name for p in tmp_path.glob("*.h5")) == ["a.h5"]


def test_an_encoder_without_a_name_needs_one(slides, tmp_path):
    with pytest.raises(
        ValueError, match=r"^expected encoder_name for an encoder without a name of its own, got <lamb"
    ):
        extract(slides, tmp_path, lambda tiles: moments(tiles))


def test_several_encoders_in_one_pass(slides, tmp_path, monkeypatch):
    reads = []
    original = Slide.scaled_region

    def counted(self, *arguments):
        reads.append(self.name)
        return original(self, *arguments)

    monkeypatch.setattr(Slide, "scaled_region", counted)
    colors = {"mean": lambda tiles: tiles.mean((2, 3)), "moments": moments}
    extract(slides[:1], tmp_path, colors)
    both = len(reads)
    mean, full = (read_patches(tmp_path / f"features_{name}" / "a.h5") for name in colors)
    assert (mean.encoder, mean.dim, full.encoder, full.dim) == ("mean", 3, "moments", 6)
    assert torch.equal(mean.load()[0], full.load()[0][:, :3])
    reads.clear()
    extract(slides[:1], tmp_path / "one", colors["mean"], encoder_name="mean")
    assert len(reads) == both
    # A third encoder later reads the slide again, and leaves the finished files alone.
    stamp = (tmp_path / "features_mean" / "a.h5").stat().st_mtime_ns
    extract(slides[:1], tmp_path, colors | {"max": lambda tiles: tiles.amax((2, 3))})
    assert read_patches(tmp_path / "features_max" / "a.h5").num_patches == 20
    assert (tmp_path / "features_mean" / "a.h5").stat().st_mtime_ns == stamp


def test_clams_layout(slides, tmp_path):
    extract(slides, tmp_path, layout="clam")
    names = {
        place: sorted(p.name for p in (tmp_path / place).iterdir())
        for place in ("h5_files", "patches", "pt_files")
    }
    assert names["h5_files"] == names["patches"] == ["a.h5", "b.h5", "c.h5"]
    assert names["pt_files"] == ["a.pt", "b.pt", "c.pt"]
    tensor, whole = (read_patches(tmp_path / name) for name in ("pt_files/a.pt", "h5_files/a.h5"))
    assert torch.equal(tensor.load()[0], whole.load()[0])
    assert torch.equal(tensor.load()[1], whole.load()[1])
    assert [r.tiles for r in extract(slides, tmp_path, layout="clam")] == [20, 12, 0]


@pytest.mark.parametrize("tool", ["clam", "trident"])
def test_coordinates_that_exist(slides, tmp_path, tool):
    (tmp_path / "patches").mkdir()
    coords = np.array([[128, 192], [200, 250], [64, 0]])
    with h5py.File(tmp_path / "patches" / ("a.h5" if tool == "clam" else "a_patches.h5"), "w") as file:
        file["coords"] = coords
        geometry = (
            {"patch_size": 32, "patch_level": 1, "downsample": (4.0, 4.0)}
            if tool == "clam"
            else {"patch_size": 64, "patch_size_level0": 128}
        )
        file["coords"].attrs.update(geometry | {"name": "a"})
    reports = extract(slides[:2], tmp_path / "out", size=64, tissue_fraction=0.1, coords=tmp_path / "patches")
    assert reports[0].error == ""
    assert re.match(
        r"FileNotFoundError: .*patches: expected a patches file b\.h5 or b_patches\.h5, got none",
        reports[1].error,
    )
    bag = read_patches(tmp_path / "out" / "a.h5")
    features, found = bag.load()
    assert (bag.footprint, found.tolist()) == (128.0, coords.tolist())
    slide = Slide(slides[0])
    pixels = np.stack([slide.scaled_region(x, y, 64, 64, 2.0) for x, y in coords])
    expected = moments(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)
    torch.testing.assert_close(features, expected)
    # By default a tile has as many pixels as the file says.
    extract(slides[:1], tmp_path / "own", size=None, coords=tmp_path / "patches")
    with h5py.File(tmp_path / "own" / "a.h5") as file:
        assert file["coords"].attrs["patch_size"] == (32 if tool == "clam" else 64)
    # Other coordinates make other features.
    (path,) = (tmp_path / "patches").iterdir()
    with h5py.File(path, "a") as file:
        file["coords"][0] = (0, 0)
    with pytest.raises(
        ValueError, match=r"a\.h5: made with selection coords \w{16}, this run has selection coords \w{16};"
    ):
        extract(slides[:1], tmp_path / "out", size=64, coords=tmp_path / "patches")


def test_coordinates_beyond_the_slide_are_its_error(slides, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["coords"] = np.array([[0, 0], [600, 0]])
        file["coords"].attrs["patch_size_level0"] = 64
        file["coords"].attrs["patch_size"] = 64
    (report,) = extract(slides[:1], tmp_path / "out", coords=tmp_path)
    assert report.error.endswith("expected patches within 600 x 500 pixels, got one at [600, 0]")


def test_masks_of_the_users_own(slides, tmp_path):
    """The outlines that one run writes are the next one's mask, once they are edited."""
    extract(slides[:2], tmp_path / "first", tissue_fraction=0.5)
    edited = tmp_path / "first" / "tissue" / "a.geojson"
    content = json.loads(edited.read_text())
    content["features"][0]["geometry"]["coordinates"] = [
        [[128, 192], [256, 192], [256, 448], [128, 448], [128, 192]]
    ]
    edited.write_text(json.dumps(content))
    reports = extract(slides[:2], tmp_path / "second", masks=tmp_path / "first" / "tissue")
    coords = read_patches(tmp_path / "second" / "a.h5").coords
    assert sorted(map(tuple, coords.tolist())) == [(x, y) for x in (128, 192) for y in (192, 256, 320, 384)]
    assert reports[0].tissue_mm2 == pytest.approx(128 * 256 * 0.25e-6, rel=0.02)
    same = read_patches(tmp_path / "first" / "b.h5").coords
    assert np.array_equal(read_patches(tmp_path / "second" / "b.h5").coords, same)
    with pytest.raises(ValueError, match=r"^expected one of coords, masks and tissue_options, got more$"):
        extract(slides, tmp_path / "third", masks=tmp_path, coords=tmp_path)


def upper_part(rgb, mpp):
    """A segmenter that takes what lies in the upper 280 level-0 pixels of 0.5 microns."""
    return np.broadcast_to((np.arange(len(rgb)) < 280 * 0.5 / mpp)[:, None], rgb.shape[:2])


@pytest.mark.parametrize("workers", [0, 1])
def test_tissue_by_a_segmenter_of_the_users_own(slides, tmp_path, workers):
    options = {"tissue_options": {"segment": upper_part, "opening": 0, "closing": 0, "mpp": 2.0}}
    (report,) = extract(slides[:1], tmp_path, num_workers=workers, tissue_fraction=1.0, **options)
    assert report.error == ""
    coords = read_patches(tmp_path / "a.h5").coords
    assert sorted(map(tuple, coords.tolist())) == [
        (x, y) for x in range(0, 576, 64) for y in (0, 64, 128, 192)
    ]
    # The same again goes on, another tissue in one folder is refused.
    (again,) = extract(slides[:1], tmp_path, tissue_fraction=1.0, **options)
    assert again.tiles == 36
    with pytest.raises(
        ValueError, match=r"selection tissue closing=0 mpp=2\.0 opening=0 segment=.*upper_part, t"
    ):
        extract(slides[:1], tmp_path, tissue_fraction=1.0)


def test_options_of_the_tissue_that_are_none(slides, tmp_path):
    with pytest.raises(ValueError, match=r"^expected options of Slide\.tissue, mpp, .*segment, got pens$"):
        extract(slides, tmp_path, tissue_options={"pens": False})
    with pytest.raises(ValueError, match=r"^expected one of coords, masks and tissue_options, got more$"):
        extract(slides, tmp_path, tissue_options={"pen": False}, masks=tmp_path)


def test_blurred_tiles_are_left_out_and_counted(slide_writer, tmp_path):
    flat = [(0, 0, 256, 512, (190, 110, 170)), (256, 0, 512, 512, "texture")]
    path = slide_writer(tmp_path / "s.tif", (512, 512), flat, levels=(1,), texture=texture)
    (every,) = extract([path], tmp_path / "all", tissue_fraction=0)
    (sharp,) = extract([path], tmp_path / "sharp", tissue_fraction=0, min_sharpness=1.0)
    assert (every.tiles, every.blur, sharp.tiles, sharp.blur) == (64, 0.0, 32, 0.5)
    assert every.sharpness == sharp.sharpness > 1
    kept = read_patches(tmp_path / "sharp" / "s.h5")
    assert kept.coords[:, 0].min() == 256
    whole = read_patches(tmp_path / "all" / "s.h5")
    everything = dict(zip(map(tuple, whole.coords.tolist()), whole.load()[0], strict=True))
    for corner, row in zip(kept.coords.tolist(), kept.load()[0], strict=True):
        assert torch.equal(row, everything[tuple(corner)])
    assert [row["blur"] for row in table(tmp_path / "sharp" / "qc.csv")] == ["0.5"]


def test_pen_has_its_share_in_the_table(slide_writer, tmp_path):
    painted = [(0, 0, 2048, 2048, "texture"), (0, 512, 2048, 768, (30, 60, 180))]
    path = slide_writer(tmp_path / "s.tif", (2048, 2048), painted, levels=(1, 4), texture=texture)
    (report,) = extract([path], tmp_path / "out", size=256)
    # An eighth of the slide, and up to 4 pixels of 128 on each side of the stroke.
    assert 16 / 128 <= report.pen <= 24 / 128
    assert not {512} & set(read_patches(tmp_path / "out" / "s.h5").coords[:, 1].tolist())


@pytest.mark.parametrize(("bottom", "warned"), [(900, False), (1400, True)])
def test_a_slide_mostly_of_pen_marks_is_warned_about(slide_writer, tmp_path, caplog, bottom, warned):
    painted = [(0, 0, 2048, 2048, "texture"), (0, 0, 2048, bottom, (30, 150, 60))]
    path = slide_writer(tmp_path / "s.tif", (2048, 2048), painted, levels=(1, 4), texture=texture)
    with caplog.at_level("WARNING"):
        (report,) = extract([path], tmp_path / "out", size=256)
    assert report.pen == pytest.approx(bottom / 2048, abs=0.03)
    message = (
        f"s: {100 * report.pen:.0f}% of what is colored is left out as pen marks; "
        f"see {tmp_path / 'out' / 'tissue' / 's.jpg'}, and pass masks if it is tissue"
    )
    assert [record.getMessage() for record in caplog.records] == [message] * warned


# Disks


def run_in(code, *arguments, **options):
    """A Python process of its own, after the lines that every one of them begins with."""
    start = "import sys, resource, signal, torch\nfrom healnet.slides import extract_features\n"
    start += "def mean(tiles): return tiles.flatten(1).repeat(1, 4)\n"
    command = [sys.executable, "-c", start + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, **options)


@pytest.mark.posix
def test_a_full_disk_stops_the_run_and_says_what_was_needed(slides, tmp_path):
    done = run_in(
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "extract_features(sys.argv[2:], mean, sys.argv[1], size=64, tissue_fraction=0.5, num_workers=0, progress=False)",
        tmp_path,
        *slides,
    )
    message = rf"OSError: \[Errno \d+\] no space on the disk: the files of this slide need 4\.\d MB: '{tmp_path}/a\.h5'\n"
    assert re.search(message, done.stderr), done.stderr
    assert not list(tmp_path.glob("*.h5"))
    assert not list(tmp_path.glob("**/*.part"))
    assert (tmp_path / "qc.csv").exists()


def test_a_disk_without_space_for_a_slide_is_noticed_before_it_is_encoded(slides, tmp_path, monkeypatch):
    calls = []

    def counting(tiles):
        calls.append(len(tiles))
        return moments(tiles)

    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match=r"no space on the disk: the files of this slide need 0\.1 MB"):
        extract(slides, tmp_path, counting)
    assert calls == [1, 2]  # the probe


@pytest.mark.posix
def test_a_finished_file_that_cannot_be_read_is_reported_and_not_replaced(slides):
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        copies = [Path(name) / path.name for path in slides[:1]]
        copies[0].write_bytes(slides[0].read_bytes())
        extract(copies, Path(name) / "out")
        path = Path(name) / "out" / "a.h5"
        stamp = path.stat().st_mtime_ns
        path.chmod(0)
        for folder in (Path(name) / "out", Path(name) / "out" / "tissue", Path(name) / "out" / ".locks"):
            folder.chmod(0o777)
        user = os.geteuid()
        if user == 0:  # root may read everything
            os.seteuid(65534)
        try:
            (report,) = extract(copies, Path(name) / "out")
        finally:
            os.seteuid(user)
        assert report.error == f"PermissionError: [Errno 13] Permission denied: '{path}'"
        assert path.stat().st_mtime_ns == stamp


# Slides that hang or crash what opens them


@pytest.mark.posix
def test_a_pipe_is_no_slide(tmp_path):
    os.mkfifo(tmp_path / "a.svs")
    (report,) = extract([tmp_path / "a.svs"], tmp_path / "out")
    assert (
        report.error
        == f"ValueError: {tmp_path}/a.svs: expected a regular file or an OME-Zarr folder, got another folder, pipe or device"
    )


def with_tile(source, path, width, length):
    data = bytearray(source.read_bytes())
    with tifffile.TiffFile(source) as file:
        for name, value in (("TileWidth", width), ("TileLength", length)):
            tag = file.pages[0].tags[name]
            size = {3: 2, 4: 4, 16: 8}[int(tag.dtype)]
            data[tag.valueoffset : tag.valueoffset + size] = value.to_bytes(size, "little")
    path.write_bytes(data)
    return path


@pytest.mark.posix
@pytest.mark.slow
def test_a_slide_that_ends_the_process_that_reads_it_is_named_and_the_others_are_done(slides, tmp_path):
    tifffile.imwrite(
        tmp_path / "whole.tif",
        np.full((512, 512, 3), 200, np.uint8),
        tile=(256, 256),
        photometric="rgb",
        compression="zlib",
        resolution=(20000, 20000),
        resolutionunit="CENTIMETER",
        metadata=None,
    )
    bomb = with_tile(tmp_path / "whole.tif", tmp_path / "aa.tif", 1 << 30, 16)
    code = (
        "print([r for r in extract_features(sys.argv[2:], mean, sys.argv[1], size=64, tissue_fraction=0.5, num_workers=1, "
        "progress=False)])"
    )
    done = run_in(
        "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n" + code, tmp_path / "out", bomb, *slides[:2]
    )
    assert done.returncode == 0, done.stderr
    rows = {row["slide"]: row for row in table(tmp_path / "out" / "qc.csv")}
    assert rows["aa"]["error"] == f"RuntimeError: {bomb}: the process that read it died (killed by signal 6)"
    assert (rows["a"]["tiles"], rows["b"]["tiles"], rows["a"]["error"]) == ("20", "12", "")


@pytest.mark.posix
@pytest.mark.skipif(sys.platform != "linux", reason="workers are forks, which know of the kill")
def test_a_slide_is_encoded_once_though_the_look_at_the_next_one_dies_meanwhile(
    slides, tmp_path, monkeypatch
):
    original, encoded = SlideJob.tiles, []

    def tiles(job, settings):
        if job.name == "b":
            time.sleep(0.2)  # while the first slide is encoded
            os.kill(os.getpid(), signal.SIGKILL)
        return original(job, settings)

    def encoder(batch):
        if len(batch) > 2:  # not the probe
            encoded.append(len(batch))
            until = time.monotonic() + 1
            while len(encoded) == 1 and time.monotonic() < until:
                time.sleep(0.01)
        return moments(batch)

    monkeypatch.setattr(SlideJob, "tiles", tiles)
    reports = extract(slides, tmp_path, encoder, num_workers=1)
    assert [(r.slide, r.tiles) for r in reports] == [("a", 20), ("b", 0), ("c", 0)]
    assert [r.error for r in reports] == [
        "",
        f"RuntimeError: {slides[1]}: the process that read it died (killed by signal 9)",
        "",
    ]
    assert sum(encoded) == 20
    features, _ = read_patches(tmp_path / "a.h5").load()
    monkeypatch.undo()
    extract(slides[:1], tmp_path / "alone")
    assert torch.equal(features, read_patches(tmp_path / "alone" / "a.h5").load()[0])


def test_a_slide_that_claims_more_pixels_than_can_be_looked_at(tmp_path):
    claimed, tile = 200_000, 16_384
    count, packed, values = (-(-claimed // tile)) ** 2, zlib.compress(bytes(3)), 8 + 2 + 12 * 13 + 4
    long, short, ratio = "I", "H2x", "I"  # how a value fills its four bytes
    entries = [(256, 4, 1, claimed, long), (257, 4, 1, claimed, long), (258, 3, 3, values, long)]
    entries += [(259, 3, 1, 8, short), (262, 3, 1, 2, short), (277, 3, 1, 3, short)]
    entries += [(282, 5, 1, values + 6, ratio), (283, 5, 1, values + 6, ratio), (296, 3, 1, 3, short)]
    entries += [(322, 4, 1, tile, long), (323, 4, 1, tile, long)]
    entries += [(324, 4, count, values + 14, long), (325, 4, count, values + 14 + 4 * count, long)]
    data = b"II*\0" + struct.pack("<IH", 8, len(entries))
    for tag, kind, number, value, form in entries:
        data += struct.pack(f"<HHI{form}", tag, kind, number, value)
    data += struct.pack("<IHHHII", 0, 8, 8, 8, 20_000, 1)
    for value in (len(data) + 8 * count, len(packed)):
        data += struct.pack(f"<{count}I", *[value] * count)
    (tmp_path / "a.tif").write_bytes(data + packed)
    (report,) = extract([tmp_path / "a.tif"], tmp_path / "out", num_workers=1)
    assert report.error.endswith(
        "expected a coarse level for an overview of 200000 x 200000 pixels, got downsamples 1"
    )
    assert report.seconds < 20


def test_an_error_of_many_lines_keeps_the_first(slides, tmp_path):
    def out_of_memory(tiles):
        if len(tiles) > 2:  # not the probe
            raise RuntimeError(
                "CUDA out of memory. Tried to allocate 2.00 GiB.\nSee the documentation\nfor advice"
            )
        return moments(tiles)

    (report,) = extract(slides[:1], tmp_path, out_of_memory)
    assert report.error == "RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB."

    def transform(tile):
        if torch.utils.data.get_worker_info() is not None:  # not the probe
            raise ValueError("first line\nsecond line")
        return tile.float()

    (report,) = extract(slides[:1], tmp_path, transform=transform, num_workers=1, encoder_name="other")
    assert report.error == "ValueError: first line"


@pytest.mark.posix
@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_run_that_is_asked_to_end_leaves_its_table(slides, tmp_path, name):
    number = getattr(signal, name)
    code = (
        "import os\n"
        "signal.signal(int(sys.argv[2]), signal.SIG_DFL)\n"  # the tests may run under nohup
        "def stop(tiles):\n"
        "    if len(tiles) == 12: os.kill(os.getpid(), int(sys.argv[2]))\n"
        "    return mean(tiles)\n"
        "extract_features(sys.argv[3:], stop, sys.argv[1], size=64, tissue_fraction=0.75, num_workers=1, progress=False)"
    )
    done = run_in(code, tmp_path / "out", int(number), *slides)
    assert done.returncode == 128 + number
    assert [row["slide"] for row in table(tmp_path / "out" / "qc.csv")] == ["a"]
    assert not list((tmp_path / "out").glob("**/*.part"))


# The command line


@pytest.fixture
def encoder_module(tmp_path, monkeypatch):
    (tmp_path / "encoders_of_a_user.py").write_text(
        "def color():\n    return lambda tiles: tiles.mean((2, 3))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return "encoders_of_a_user:color"


def test_the_command_reads_a_folder(slides, tmp_path, encoder_module):
    (slides[0].parent / "notes.txt").write_text("no slide")
    arguments = [
        str(slides[0].parent),
        "--output",
        str(tmp_path / "out"),
        "--encoder",
        encoder_module,
        "--size",
        "64",
    ]
    assert main([*arguments, "--tissue-fraction", "0.75", "--workers", "0", "--no-progress"]) == 0
    assert read_patches(tmp_path / "out" / "a.h5").num_patches == 20
    assert read_patches(tmp_path / "out" / "a.h5").encoder == "color"


def test_the_command_takes_a_segmenter_and_leaves_out_the_pen_search(slides, tmp_path, encoder_module):
    (tmp_path / "segmenters_of_a_user.py").write_text(
        "def everything(rgb, mpp):\n    return rgb[..., 0] >= 0\n"
    )
    arguments = [
        str(slides[2]),
        "--output",
        str(tmp_path / "out"),
        "--encoder",
        encoder_module,
        "--size",
        "64",
    ]
    arguments += [
        "--segment",
        "segmenters_of_a_user:everything",
        "--no-pen",
        "--workers",
        "0",
        "--no-progress",
    ]
    assert main(arguments) == 0
    with h5py.File(tmp_path / "out" / "c.h5") as file:
        assert len(file["coords"]) == 10 * 8  # glass, which no saturation would find
        assert (
            file["coords"].attrs["selection"] == b"tissue pen=False segment=segmenters_of_a_user.everything"
        )


def test_the_command_tells_of_failures(slides, slide_writer, tmp_path, encoder_module):
    slide_writer(tmp_path / "s.tif", (300, 300), [(0, 0, 300, 300, TISSUE)], levels=(1,), mpp=None)
    arguments = [
        str(tmp_path / "s.tif"),
        "--output",
        str(tmp_path / "out"),
        "--encoder",
        encoder_module,
        "--workers",
        "0",
    ]
    assert main([*arguments, "--no-progress"]) == 1
    (tmp_path / "mpp.csv").write_text("slide,mpp\ns,0.5\n")
    assert main([*arguments, "--no-progress", "--slide-mpp", str(tmp_path / "mpp.csv")]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--encoder", "color"], "--encoder: expected MODULE:FUNCTION, got color"),
        (["--segment", "net", "--encoder", "json:loads"], "--segment: expected MODULE:FUNCTION, got net"),
    ],
)
def test_arguments_that_cannot_be(slides, tmp_path, capsys, arguments, message, encoder_module):
    arguments = [encoder_module if a == "json:loads" else a for a in arguments]
    with pytest.raises(SystemExit):
        main([str(slides[0]), "--output", str(tmp_path), *arguments])
    assert message in capsys.readouterr().err


def test_a_folder_without_slides_is_said(tmp_path, capsys, encoder_module):
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--output", str(tmp_path / "out"), "--encoder", encoder_module])
    assert f"error: no slides in {tmp_path}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_module_is_a_command():
    result = subprocess.run(
        [sys.executable, "-W", "error", "-m", "healnet.slides.extract", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.startswith("usage: python -m healnet.slides.extract")


# Kills and runs that share a folder

SHARING = """
import json, os, random, signal, sys, time
from pathlib import Path
from types import SimpleNamespace
import h5py, torch
from healnet.slides import extract_features

slides, reference, output, result, budget = sys.argv[1].split(":"), *map(Path, sys.argv[2:5]), float(sys.argv[5])

def encoder(tiles):
    time.sleep(0.01)
    return torch.cat((tiles.mean((2, 3)), tiles.square().mean((2, 3))), dim=1)

def run(folder):
    extract_features(slides, encoder, folder, size=64, tissue_fraction=0.5, batch_size=4, num_workers=1, progress=False)

def start():
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setpgid(0, 0)
            run(output)
            code = 0
        finally:
            os._exit(code)
    os.setpgid(child, child)  # here too: the child may not have come to it when it is killed
    return child

def whole(path):
    with h5py.File(path) as file:
        return {name: file[name][:].tobytes() for name in file}

run(reference)
expected = {path.name: whole(path) for path in reference.glob("*.h5")}
log = {"rounds": 0, "kills": 0, "replaced": 0, "other": 0, "failed": 0, "missing": 0, "left": 0, "rows": []}
draw, end, killed = random.Random(int(sys.argv[6])), time.monotonic() + budget, []
while time.monotonic() < end or not log["rounds"]:
    children, finished = {start() for _ in range(3)}, {}
    while children:
        time.sleep(draw.uniform(0, 0.5))
        for child in list(children):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                children.discard(child)
                log["failed"] += status != 0
        for path in output.glob("*.h5"):
            stamp = (path.stat().st_ino, path.stat().st_mtime_ns)
            log["replaced"] += finished.setdefault(path.name, stamp) != stamp
        if children and len(finished) < len(slides) - 1 and draw.random() < 0.7:
            victim = draw.choice(sorted(children))
            (os.kill if draw.random() < 0.5 else os.killpg)(victim, signal.SIGKILL)
            os.waitpid(victim, 0)
            killed.append(victim)
            children = children - {victim} | {start()}
            log["kills"] += 1
    files = {path.name: whole(path) for path in output.glob("*.h5")}
    log["missing"] += len(expected.keys() - files.keys())
    log["other"] += sum(files[name] != expected[name] for name in files)
    log["left"] += len(list(output.glob("**/*.part")))
    log["rows"].append(len((output / "qc.csv").read_text().splitlines()) - 1)
    log["rounds"] += 1
    for path in [*output.glob("*.h5"), *output.glob("tissue/*"), output / "qc.csv"]:
        path.unlink()

def remains(group):
    # A zombie counts as gone: without an init process, as in a container, it stays.
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of = file.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(of) == group and state != "Z":
            return True
    return False

until = time.monotonic() + 30
while any(map(remains, killed)) and time.monotonic() < until:
    time.sleep(0.2)
log["orphans"] = sum(map(remains, killed))
result.write_text(json.dumps(log))
"""


@pytest.mark.posix
@pytest.mark.slow
def test_three_runs_share_a_folder_whatever_is_killed(slide_writer, tmp_path):
    """Every slide is finished exactly once, bit-identical to a quiet run, every table is complete, no process stays."""
    slides = []
    for i in range(8):
        painted = [(64, 64, 64 * (5 + i % 5), 448, "texture")]
        path = slide_writer(
            tmp_path / f"s{i}.tif", (800, 500), painted, levels=(1,), tile=128, texture=texture
        )
        slides.append(str(path))
    folders = [tmp_path / name for name in ("reference", "shared", "log.json")]
    subprocess.run(
        [sys.executable, "-c", SHARING, ":".join(slides), *map(str, folders), "60", "7"],  # seconds, seed
        check=True,
        timeout=600,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    log = json.loads(folders[2].read_text())
    assert log["kills"] >= 10
    assert set(log.pop("rows")) == {8}
    assert {key: log[key] for key in ("replaced", "other", "failed", "missing", "left", "orphans")} == {
        "replaced": 0, "other": 0, "failed": 0, "missing": 0, "left": 0, "orphans": 0
    }  # fmt: skip


KILLER = """
import json, os, random, signal, sys, time
from pathlib import Path
from types import SimpleNamespace
import h5py, openslide, PIL.Image, scipy.ndimage, torch
from healnet.slides import extract_features

slides, reference, output, result = sys.argv[1].split(":"), *map(Path, sys.argv[2:])

def encoder(tiles):
    time.sleep(0.02)
    return torch.cat((tiles.mean((2, 3)), tiles.square().mean((2, 3))), dim=1)

def run(folder):
    extract_features(slides, encoder, folder, size=64, tissue_fraction=0.5, batch_size=4, num_workers=2, progress=False)

def whole(path):
    with h5py.File(path) as file:
        return {name: file[name][:].tobytes() for name in file}

begin = time.monotonic()
run(reference)
duration = time.monotonic() - begin
expected = {path.name: whole(path) for path in reference.glob("*.h5")}

moments, finished, partial = random.Random(int(duration * 1e6)), {}, 0
log = {"kills": 0, "seconds": duration, "finished_after": [], "redone": 0, "half": 0}
while log["kills"] < 10:
    child = os.fork()
    if child == 0:
        try:
            os.setpgid(0, 0)
            run(output)
        finally:
            os._exit(0)
    os.setpgid(child, child)  # here too: the child may not have come to it when it is killed
    time.sleep(moments.uniform(0, duration / 4))
    # A scheduler kills the whole group; the kernel, out of memory, one process.
    (os.kill if log["kills"] % 2 else os.killpg)(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    log["kills"] += os.WIFSIGNALED(status)
    partial += len(list(output.glob(".*.part")))
    for path in output.glob("*.h5"):
        log["half"] += whole(path) != expected[path.name]
        stamp = finished.setdefault(path.name, path.stat().st_mtime_ns)
        log["redone"] += stamp != path.stat().st_mtime_ns
    log["finished_after"].append(len(finished))
    if len(finished) == len(slides):  # start over, so that every kill meets a run at work
        for path in [*output.glob("*.h5"), output / "qc.csv"]:
            path.unlink(missing_ok=True)
        finished = {}
run(output)
log["half"] += sum(whole(output / name) != values for name, values in expected.items())
log["redone"] += sum((output / name).stat().st_mtime_ns != stamp for name, stamp in finished.items())
log |= {"files": len(list(output.glob("*.h5"))), "left": len(list(output.glob("**/*.part"))), "partial": partial}
result.write_text(json.dumps(log))
"""


@pytest.mark.posix
@pytest.mark.slow
def test_ten_kills_at_random_moments_change_nothing(slide_writer, tmp_path):
    slides = []
    for i in range(6):
        painted = [(64, 64, 64 * (5 + i), 448, "texture")]
        path = slide_writer(
            tmp_path / f"slide{i}.tif", (800, 500), painted, levels=(1,), tile=128, texture=texture
        )
        slides.append(str(path))
    folders = [tmp_path / name for name in ("reference", "killed", "log.json")]
    subprocess.run(
        [sys.executable, "-c", KILLER, ":".join(slides), *map(str, folders)],
        check=True,
        timeout=300,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    log = json.loads(folders[2].read_text())
    assert log["kills"] == 10
    assert (log["half"], log["redone"]) == (0, 0)
    assert max(log["finished_after"]) > 0, "no attempt got as far as a finished slide"
    assert (log["files"], log["left"]) == (6, 0)
    assert [row["slide"] for row in table(tmp_path / "killed" / "qc.csv")] == [f"slide{i}" for i in range(6)]
