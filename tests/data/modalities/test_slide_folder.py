from pathlib import Path

import pytest

from healnet.data import Cohort
from healnet.data.modalities.slide_folder import (
    SlideFile,
    find_slides,
    list_feature_files,
    slides_of_patients,
)


def touch(path):
    path.parent.mkdir(exist_ok=True)
    path.touch()
    return path


def test_h5_is_preferred_to_pt_in_clams_layout(tmp_path):
    files = {
        "p0-A": touch(tmp_path / "h5_files" / "p0-A.h5"),
        "p1-A": touch(tmp_path / "pt_files" / "p1-A.pt"),
    }
    for other in ("pt_files/p0-A.pt", "h5_files/.p2-A.h5", "notes.txt", "patches/p3-A.h5"):
        touch(tmp_path / other)
    assert list_feature_files(tmp_path) == files


def test_slides_without_a_file_are_kept_as_not_found():
    files = {"p0-A": Path("a.h5"), "p1-A": Path("b.pt")}
    found = find_slides(Path("folder"), files, {"p0": ["p0-A.svs", "p0-B"], "p1": ["p1-A"], "p2": []})
    assert found == {"p0": (Path("a.h5"), SlideFile("p0-B", None)), "p1": (Path("b.pt"),), "p2": ()}
    assert slides_of_patients(files, lambda slide: slide[:2]) == {"p0": ("p0-A",), "p1": ("p1-A",)}


def test_a_folder_is_listed_once(tmp_path, monkeypatch):
    import torch

    torch.save(torch.ones(4, 3), touch(tmp_path / "p0-A.pt"))
    listed = []
    once = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: listed.append(self) or once(self))
    whole = Cohort({"x": {"p0": torch.ones(2, 1)}}).with_patches(tmp_path, patient_of=lambda slide: slide[:2])
    assert listed == [tmp_path]
    assert whole.widths == {"slide": 3}


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere: expected a folder of feature files, and there is none$"):
        list_feature_files(tmp_path / "nowhere")
