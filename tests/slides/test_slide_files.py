"""Every file that looks like a slide is found, and every name that is given belongs to one."""

import re
from pathlib import Path

import pytest

from healnet.slides.slide_files import (
    find_slide_files,
    match_slide_mpp,
    named_slides,
    read_slide_list,
    slide_name,
    slide_stem,
)


def test_only_suffixes_of_slides_are_cut_off():
    assert slide_name("a.b.svs") == "a.b"
    assert slide_name("a.b.NDPI") == "a.b"
    assert slide_name("TCGA-2F-A9KO-01Z-00-DX1.195576CF-B739") == "TCGA-2F-A9KO-01Z-00-DX1.195576CF-B739"
    assert slide_name("svs") == "svs"
    assert (slide_name("a.b.ome.zarr"), slide_name("a.b.Zarr"), slide_name(".ome.zarr")) == (
        "a.b",
        "a.b",
        ".ome.zarr",
    )


def test_damaged_slides_and_those_in_subfolders_are_found(slide_writer, tmp_path):
    (tmp_path / "0f3a" / "logs").mkdir(parents=True)  # as GDC's download tool makes them
    (tmp_path / "0f3a" / "logs" / "x.svs.parcel").touch()
    (tmp_path / "0f3a" / "annotations.txt").touch()
    (tmp_path / "0f3a" / "b.svs").write_bytes(b"truncated")
    (tmp_path / "empty.ndpi").touch()
    (tmp_path / ".hidden.svs").touch()
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "c.svs").touch()
    slide_writer(tmp_path / "a.tif", (300, 300), levels=(1,)).rename(tmp_path / "no_suffix")
    (tmp_path / "d1").mkdir()
    for i in range(3):
        (tmp_path / "d1" / f"{i}.dcm").touch()
    found = [str(path.relative_to(tmp_path)) for path in find_slide_files(tmp_path)]
    assert found == ["0f3a/b.svs", "d1/0.dcm", "empty.ndpi", "no_suffix"]


def test_the_name_of_a_file_has_no_suffix_of_any_kind():
    names = ("x/a.b.svs", "a.b.png", "a", "x/a.b.OME.zarr", "a.zarr/")
    assert [slide_stem(Path(name)) for name in names] == ["a.b", "a.b", "a", "a.b", "a"]


def test_slides_are_named_by_their_files_and_dicom_by_its_folder():
    named = named_slides(["x/b.svs", "a.1.tif", "d1/0.dcm", "x/c.ome.zarr"])
    slides = [("a.1", "a.1.tif"), ("b", "x/b.svs"), ("c", "x/c.ome.zarr"), ("d1", "d1/0.dcm")]
    assert named == [(name, Path(path)) for name, path in slides]
    with pytest.raises(ValueError, match=r"^expected slides of different names, got x/a\.svs and y/a\.tif$"):
        named_slides(["x/a.svs", "y/a.tif"])


def test_scales_by_name_with_or_without_suffix():
    assert match_slide_mpp(None, ["a"]) == {"a": None}
    assert match_slide_mpp(0.25, ["a", "b"]) == {"a": 0.25, "b": 0.25}
    assert match_slide_mpp({"a.svs": 0.5, "b": 0.25, "a": 0.5}, ["a", "b", "c"]) == {
        "a": 0.5,
        "b": 0.25,
        "c": None,
    }


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        ({"x": 0.5}, "expected slide_mpp of slides of this run, got 'x'"),
        ({"A.svs": 0.5}, "expected slide_mpp of slides of this run, got 'A.svs'; did you mean 'a'?"),
        ({"a": 0.5, "a.svs": 0.25}, "expected one slide_mpp for 'a', got 0.5 and 0.25"),
    ],
)
def test_scales_of_nothing_or_of_two_values_are_refused(scales, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        match_slide_mpp(scales, ["a", "b"])


def test_a_list_of_slides(tmp_path):
    (tmp_path / "list.csv").write_text(
        "\ufeffwsi,mpp,site\nx/a.svs,0.25,1\n/data/b.tif,,2\n", encoding="utf-8"
    )
    slides, scales = read_slide_list(tmp_path / "list.csv")
    assert slides == [tmp_path / "x" / "a.svs", Path("/data/b.tif")]
    assert scales == {"a": 0.25}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file\na.svs\n", "expected a CSV file with a column `slide` or `wsi`, got ['file']"),
        ("slide,mpp\na.svs,fine\n", "expected a number as mpp of a.svs, got 'fine'"),
        ("slide,mpp\na.svs,0.5\nx/a.tif,0.25\n", "expected one mpp for x/a.tif, got two"),
    ],
)
def test_what_is_no_list_of_slides(tmp_path, text, message):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{tmp_path}/list.csv: {message}')}$"):
        read_slide_list(tmp_path / "list.csv")


def test_slides_of_formats_that_cannot_be_read_are_counted(tmp_path):
    for name in ("a.vsi", "b.vsi", "sub/c.KFB", ".hidden.vsi", "d.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    message = f"{tmp_path}: 2 .vsi, 1 .kfb look like slides of formats that cannot be read, and are left out"
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        assert find_slide_files(tmp_path) == []
