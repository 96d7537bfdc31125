"""What a run writes down about its slides, and how it knows them again."""

import math

import h5py
import numpy as np
import pytest

from healnet.slides.feature_writer import (
    ExtractionSettings,
    SlideReport,
    finished_report,
    write_features,
    write_report,
)
from healnet.slides.slide import Slide
from healnet.slides.tile_encoder import FeatureKind

SETTINGS = ExtractionSettings("mean", size=64, mpp=0.5, overlap=0, tissue_fraction=0.0)
KIND = FeatureKind(3, np.dtype(np.float32))


@pytest.fixture(scope="module")
def slide(slide_writer, tmp_path_factory):
    return Slide(slide_writer(tmp_path_factory.mktemp("slides") / "a.tif", (150, 100), levels=(1,)))


def batches(*lengths):
    return [np.full((n, 3), i, np.float32) for i, n in enumerate(lengths)]


def test_batches_follow_one_another_and_are_known_again(slide, tmp_path):
    tiles = SETTINGS.tiles(slide)
    root = {"tissue_mm2": 0.5, "seconds": 2.0}
    write_features(tmp_path / "a.h5", tiles, batches(4, 2), KIND, SETTINGS, root)
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["features"][:, 0].tolist() == [0, 0, 0, 0, 1, 1]
        assert file["coords"][:].tolist() == tiles.coords.tolist()
    assert finished_report(tmp_path / "a.h5", SETTINGS) == SlideReport("a", 6, 0.5, 2.0, "")


def test_rows_must_add_up_and_be_finite(slide, tmp_path):
    tiles = SETTINGS.tiles(slide)
    with pytest.raises(ValueError, match=r"^a: expected features of 6 tiles, got 5$"):
        write_features(tmp_path / "a.h5", tiles, batches(5), KIND, SETTINGS, {})
    bad = batches(4, 2)
    bad[1][1, 2] = np.inf
    with pytest.raises(
        ValueError, match=r"^a: the encoder made features that are not finite of the tile in row 5$"
    ):
        write_features(tmp_path / "a.h5", tiles, bad, KIND, SETTINGS, {})


@pytest.mark.parametrize(
    "changed", [{"encoder": "other"}, {"size": 32}, {"mpp": 1.0}, {"overlap": 8}, {"tissue_fraction": 0.5}]
)
def test_files_of_any_other_setting_are_refused(slide, tmp_path, changed):
    write_features(tmp_path / "a.h5", SETTINGS.tiles(slide), batches(6), KIND, SETTINGS, {})
    values = {key: getattr(SETTINGS, key) for key in ("encoder", "size", "mpp", "overlap", "tissue_fraction")}
    with pytest.raises(
        ValueError, match=r"a\.h5: made with .*; write to another folder, or remove the old files$"
    ):
        finished_report(tmp_path / "a.h5", ExtractionSettings(**(values | changed)))


def test_what_is_no_finished_file(tmp_path, caplog):
    assert finished_report(tmp_path / "a.h5", SETTINGS) is None
    assert not caplog.records
    (tmp_path / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    assert finished_report(tmp_path / "a.h5", SETTINGS) is None
    assert caplog.records[0].getMessage().startswith(f"{tmp_path / 'a.h5'}: expected a feature file")
    assert caplog.records[0].getMessage().endswith("; it is made again")


@pytest.mark.parametrize("coords", [True, False])
def test_a_file_of_another_tool_is_neither_taken_for_ones_own_nor_overwritten(tmp_path, coords):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["features"] = np.ones((5, 3), np.float32)
        if coords:
            file["coords"] = np.ones((5, 2), int)
            file["coords"].attrs["patch_size"] = 64
    with pytest.raises(
        ValueError,
        match=r"a\.h5: made with .*mpp None, overlap None, tissue_fraction None, encoder None, this",
    ):
        finished_report(tmp_path / "a.h5", SETTINGS)


def test_the_table_is_plain_csv(tmp_path):
    reports = [
        SlideReport("a,b", 6, 0.123456, 1.0, ""),
        SlideReport("c", 0, math.nan, 0.123, 'ValueError: "x"'),
    ]
    write_report(tmp_path / "qc.csv", reports)
    assert (tmp_path / "qc.csv").read_text().splitlines() == [
        "slide,tiles,tissue_mm2,seconds,error",
        '"a,b",6,0.1235,1.0,',
        'c,0,nan,0.12,"ValueError: ""x"""',
    ]


@pytest.mark.parametrize(
    "changed", [{"size": 0}, {"mpp": 0.0}, {"mpp": math.nan}, {"overlap": 64}, {"tissue_fraction": 2.0}]
)
def test_settings_that_cannot_be(changed):
    values = {"encoder": "mean", "size": 64, "mpp": 0.5, "overlap": 0, "tissue_fraction": 0.1} | changed
    expected = "expected size >= 1, 0 <= overlap < size, mpp > 0 and 0 <= tissue_fraction <= 1, got size"
    with pytest.raises(ValueError, match=f"^{expected}"):
        ExtractionSettings(**values)
