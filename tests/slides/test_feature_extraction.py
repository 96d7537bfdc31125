"""Feature files are whole, right, and the same however often the run was killed."""

import csv
import gc
import json
import os
import re
import subprocess
import sys

import h5py
import numpy as np
import pytest
import tifffile
import torch
from torch import nn

from healnet.slides import extract_features
from healnet.slides.extract import main
from healnet.slides.slide import Slide
from healnet.slides.trident_clam_reader import read_patches

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
        ".extraction.lock",
        "a.h5",
        "b.h5",
        "c.h5",
        "qc.csv",
        "tissue",
    ]
    assert {row["slide"]: bool(row["error"]) for row in table(tmp_path / "out" / "qc.csv")} == {
        "a": False, "aa": True, "absent": True, "b": False, "bad": True, "c": False
    }  # fmt: skip
    assert capfd.readouterr().err == ""  # workers of the slides after a bad one inherit nothing of its loader
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
    assert sorted(p.name for p in tmp_path.glob(".*")) == [".extraction.lock", ".z.h5.0123.part"]


def test_names_and_scales(slides, slide_writer, tmp_path):
    twin = tmp_path / "a.tif"
    slide_writer(twin, (800, 800), [(0, 0, 800, 800, TISSUE)], levels=(1,), mpp=None)
    with pytest.raises(ValueError, match=r"^expected slides of different names, got .*a\.tif and .*a\.tif$"):
        extract([*slides, twin], tmp_path / "out")
    (report,) = extract([twin], tmp_path / "out")
    assert report.error.endswith(
        "the file does not say its microns per pixel; say it yourself: Slide(path, mpp=...)"
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
    assert sorted(p.name for p in tmp_path.iterdir()) == [".extraction.lock", "a.h5", "qc.csv", "tissue"]


def test_the_bar_shows_slides_rate_and_time_left(slides, tmp_path, capsys):
    extract(slides, tmp_path, progress=True)
    shown = capsys.readouterr().err
    assert re.search(r"100%\|█+\| 3\.0/3 slides \[\d\d:\d\d<\d\d:\d\d, \d+ tiles/s, b\]", shown)
    extract(slides, tmp_path, progress=False)
    assert capsys.readouterr().err == ""


# The command line


@pytest.fixture
def encoder_module(tmp_path, monkeypatch):
    (tmp_path / "encoders_of_a_user.py").write_text(
        "def colour():\n    return lambda tiles: tiles.mean((2, 3))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return "encoders_of_a_user:colour"


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
    assert read_patches(tmp_path / "out" / "a.h5").encoder == "colour"


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
        (["--encoder", "colour"], "--encoder: expected MODULE:FUNCTION, got colour"),
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


# Ten kills

KILLER = """
import json, os, random, signal, sys, time
from pathlib import Path
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
