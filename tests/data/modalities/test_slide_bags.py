import logging
import re
import warnings
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from healnet import HEALNet
from healnet.data import Cohort, CohortDataset, tcga_slides
from healnet.data.modalities.slide_bags import Bags
from healnet.data.modalities.slide_folder import (
    SlideFile,
)
from healnet.encoders import PatchEncoder
from healnet.survival.target import SurvivalTarget

PATIENTS = pd.Index(["p0", "p1", "p2"], dtype=object)


def write(path: Path, n=4, dim=3, encoder=None, coords=True):
    path.parent.mkdir(exist_ok=True, parents=True)
    with h5py.File(path, "w") as file:
        file["features"] = np.full((n, dim), 0.5, dtype=np.float32)
        if encoder:
            file["features"].attrs["encoder"] = encoder
        if coords:
            file["coords"] = np.arange(2 * n).reshape(n, 2)
            file["coords"].attrs["patch_size_level0"] = 512
    return path


def cohort(slides=None):
    age = pd.DataFrame({"age": [50.0, 60.0, 70.0]}, index=PATIENTS)
    return Cohort(
        {"clinical": age}, SurvivalTarget([1.0, 2.0, 3.0], [True, False, True]), PATIENTS, slides=slides
    )


SLIDES = {"p0": ["p0-A.svs", "p0-B.svs"], "p1": ["p1-A.svs"], "p2": ["p2-A.svs"]}


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "features" / "p0-A.h5", 4)
    write(tmp_path / "features" / "p0-B.h5", 6)
    write(tmp_path / "features" / "p1-A.h5", 0)
    write(tmp_path / "features" / "stranger.h5", 5)
    return tmp_path / "features"


def test_slides_are_found_by_name_and_gaps_are_listed(folder, caplog):
    with caplog.at_level(logging.INFO, logger="healnet"):
        whole = cohort(SLIDES).with_patches(folder)
    assert "modality 'slide': slides 2 ok, 1 empty, 1 not found" in caplog.text
    assert repr(whole) == "Cohort(3 patients, 2 events, clinical 3x1, slide 1x3)"
    assert whole.missing()["slide"].tolist() == [False, True, True]
    assert whole.widths == {"clinical": 1, "slide": 3}
    report = whole.files("slide")
    assert report["patient"].tolist() == ["p0", "p0", "p1", "p2"]
    assert report["slide"].tolist() == ["p0-A", "p0-B", "p1-A", "p2-A"]
    assert report["status"].tolist() == ["ok", "ok", "empty", "not found"]
    assert report["patches"].tolist() == [4, 6, 0, 0]
    assert report["footprint"].tolist()[:2] == [512.0, 512.0]
    assert report["path"].tolist()[0] == str(folder / "p0-A.h5")


def test_a_part_of_the_cohort_lists_its_own_slides(folder):
    part = cohort(SLIDES).with_patches(folder)[[2, 0]]
    assert part.files()["slide"].tolist() == ["p2-A", "p0-A", "p0-B"]
    assert part.modality("slide").lengths().tolist() == [0, 10]
    assert part.slides == {"p2": ("p2-A.svs",), "p0": ("p0-A.svs", "p0-B.svs")}


def test_patients_may_be_found_by_the_files_names(folder):
    whole = cohort().with_patches(folder, name="wsi", patient_of=lambda slide: slide.split("-")[0])
    assert whole.files("wsi")["slide"].tolist() == ["p0-A", "p0-B", "p1-A"]
    assert whole.missing()["wsi"].tolist() == [False, True, True]


def test_what_read_patches_returns_will_do(folder):
    bags = Bags.of("slide", {"p0": [folder / "p0-A.h5"], "p2": str(folder / "p0-B.h5")}, PATIENTS)
    again = Bags.of(
        "slide", {"p0": bags.files(0)[0], "p2": [SlideFile("lost", None), *bags.files(2)]}, PATIENTS
    )
    assert again.lengths().tolist() == [4, 0, 6]
    assert [slide.status for slide in again.slides[2]] == ["not found", "ok"]


def build(*sources):
    return lambda tmp_path: Bags.of(
        "slide", {f"p{i}": source(tmp_path) for i, source in enumerate(sources)}, PATIENTS
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            build(lambda d: write(d / "a.h5"), lambda d: write(d / "b.h5", dim=5)),
            "modality 'slide': {d}/b.h5 has features of width 5, {d}/a.h5 of 3",
        ),
        (
            build(lambda d: write(d / "a.h5", encoder="uni"), lambda d: write(d / "b.h5", encoder="conch")),
            "modality 'slide': {d}/b.h5 was made by 'conch', {d}/a.h5 by 'uni'",
        ),
        (
            build(lambda d: write(d / "a.h5"), lambda d: write(d / "b.h5", coords=False)),
            "modality 'slide': {d}/b.h5 has no coordinates, {d}/a.h5 has",
        ),
        (
            build(lambda d: write(d / "a.h5"), lambda d: [d / "." / "a.h5"]),
            "modality 'slide': {d}/a.h5 is given to patient 'p0' and to 'p1'",
        ),
        (
            build(lambda d: write(d / "a.h5", n=0)),
            "modality 'slide': expected patches, and none of 1 files has any",
        ),
        (
            lambda d: cohort().with_patches(d / "nowhere", patient_of=str),
            "{d}/nowhere: expected a folder of feature files, and there is none",
        ),
        (
            lambda d: cohort(SLIDES).with_patches(d),
            "{d}: expected feature files named after the cohort's slides such as p0-A.h5 or p0-A.pt, "
            "found none of 4 slides among 0 files",
        ),
        (
            lambda d: cohort().with_patches(d),
            "the cohort has no slide ids; pass patient_of to find a patient by a slide's name",
        ),
        (lambda d: cohort().with_patches(d, name="clinical"), "the cohort already has a modality 'clinical'"),
    ],
)
def test_what_cannot_be_is_refused_by_name(tmp_path, call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message.format(d=tmp_path))}$"):
        call(tmp_path)


def test_a_corrupt_file_stops_the_cohort_at_build_time(folder):
    (folder / "p2-A.h5").write_bytes(b"\x89HDF\r\n\x1a\n truncated")
    with pytest.raises(ValueError, match=r"p2-A\.h5"):
        cohort(SLIDES).with_patches(folder)


def embedding(path, values):
    path.parent.mkdir(exist_ok=True)
    with h5py.File(path, "w") as file:
        file["features"] = np.asarray(values, np.float32)
        file["coords"] = np.zeros((9, 2), int)  # TRIDENT keeps those of the patches
    return path


def test_embeddings_of_slides_are_a_modality(tmp_path):
    folder = tmp_path / "slide_features_titan"
    for name, values in {"p0-A": [1, 2, 3], "p0-B": [4, 5, 6], "p2-A": [7, 8, 9]}.items():
        embedding(folder / f"{name}.h5", values)
    whole = cohort(SLIDES).with_patches(folder, "slides")
    assert whole.widths == {"clinical": 1, "slides": 3}
    assert whole.missing()["slides"].tolist() == [False, True, False]
    bag = CohortDataset(whole).batch().inputs["slides"]
    assert bag.mask.tolist() == [[True, True], [False, False], [True, False]]
    assert bag.features.tolist() == [[[1, 2, 3], [4, 5, 6]], [[0] * 3] * 2, [[7, 8, 9], [0] * 3]]
    assert bag.coords[0].tolist() == [[0, 0, 0], [0, 0, 1]]  # no places, but whose slide each row is
    model = HEALNet({"slides": PatchEncoder(3, positions=False)}, latent_dim=8, num_latents=2, output="cox")
    assert model({"slides": bag}).isfinite().all()
    embedding(folder / "p1-A.h5", [1, 2])
    with pytest.raises(ValueError, match=r"^modality 'slides': .*p1-A\.h5 has features of width 2, .* of 3$"):
        cohort(SLIDES).with_patches(folder, "slides")
    (folder / "p1-A.h5").unlink()
    write(folder / "p1-A.h5", n=4, coords=False, encoder="uni")
    with pytest.raises(
        ValueError, match=r"^modality 'slides': .*p1-A\.h5 was made by 'uni', .*p0-A\.h5 by 'titan'$"
    ):
        cohort(SLIDES).with_patches(folder, "slides")


def test_slides_of_tcga_of_one_kind(tmp_path):
    names = [
        "TCGA-AA-0001-01Z-00-DX1.uuid",
        "TCGA-AA-0001-01A-01-TS1",
        "TCGA-AA-0001-11A-01-TS1",
        "TCGA-AA-0002-01Z-00-DX1",
    ]
    for name in names:
        write(tmp_path / f"{name}.h5")
    table = pd.DataFrame({"x": [1.0, 2.0]}, index=["TCGA-AA-0001", "TCGA-AA-0002"])
    whole = Cohort({"clinical": table})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        diagnostic = whole.with_patches(tmp_path, slides=tcga_slides)
        frozen = whole.with_patches(tmp_path, slides=partial(tcga_slides, kinds=["TS"]))
    assert diagnostic.files()["slide"].tolist() == [names[0], names[3]]
    assert frozen.files()["slide"].tolist() == [names[1]]
    with pytest.warns(UserWarning, match="takes those of one kind$") as caught:
        whole.with_patches(tmp_path, patient_of=lambda slide: slide[:12])
    advice = "slides=healnet.data.tcga_slides takes those of one kind"
    assert [str(warning.message) for warning in caught] == [
        f"modality 'slide': 1 slides are normal tissue, such as {names[2]!r}, and 3 tumor, such as {names[1]!r}; {advice}",
        f"modality 'slide': 2 slides are frozen, such as {names[1]!r}, and 2 diagnostic, such as {names[0]!r}; {advice}",
    ]
    assert {warning.filename for warning in caught} == {__file__}
    with pytest.raises(ValueError, match=r"^expected patient_of or slides, got both$"):
        whole.with_patches(tmp_path, slides=tcga_slides, patient_of=str)


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        ({"patch_size": 256}, {"patch_size": 224}, "patches of 224 pixels, {} patches of 256 pixels"),
        (
            {"patch_size": 256, "target_magnification": 20.0},
            {"patch_size": 256, "target_magnification": 10.0},
            "patches at 10x, {} patches at 20x",
        ),
        ({"target_magnification": 20.0}, {"target_magnification": 20.04}, None),
        ({"patch_size_level0": 512, "patch_size": 256}, {"patch_size_level0": 256, "patch_size": 256}, None),
        ({"patch_size": 256}, {}, None),
    ],
)
def test_two_magnifications_or_sizes_are_no_one_modality(tmp_path, one, other, message):
    """The same patches are twice as many level-0 pixels wide on a slide scanned at 40x."""
    paths = [write(tmp_path / "a.h5"), write(tmp_path / "b.h5")]
    for path, attributes in zip(paths, (one, other), strict=True):
        with h5py.File(path, "r+") as file:
            for key in list(file["coords"].attrs):
                del file["coords"].attrs[key]
            file["coords"].attrs.update(attributes)
    source = {"p0": paths[0], "p1": paths[1]}
    if message is None:
        assert Bags.of("slide", source, PATIENTS).lengths().tolist()[:2] == [4, 4]
        return
    expected = (
        f"modality 'slide': {paths[1]} has {message.format(paths[0])}; give each kind a modality of its own"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        Bags.of("slide", source, PATIENTS)


def test_a_few_of_the_slides_are_warned_of_with_both_kinds_of_names(tmp_path):
    """One of ten slides has a file; the others were extracted under other names."""
    ids = [f"p{i}" for i in range(10)]
    table = pd.DataFrame({"x": np.arange(10.0)}, index=ids)
    for i in range(10):
        write(tmp_path / ("p0-A.h5" if i == 0 else f"slide_{i}.h5"))
    (tmp_path / "p3-A.npy").write_bytes(b"x")
    whole = Cohort({"clinical": table}, slides={patient: (f"{patient}-A.svs",) for patient in ids})
    other = "it also has 1 .npy, which are no feature files that can be read"
    found = "1 of 10 slides have a file; 'p1-A' for example has none, the folder has 'slide_1', 'slide_2', 'slide_3'"
    with pytest.warns(UserWarning, match=f"^{re.escape(f'{tmp_path}: {found}; {other}')}$") as caught:
        whole.with_patches(tmp_path)
    assert caught[0].filename == __file__
    found = "1 of 10 patients have slides; 'p1' for example has none, the folder has 'slide_1', 'slide_2', 'slide_3'"
    with pytest.warns(UserWarning, match=f"^{re.escape(f'{tmp_path}: {found}; {other}')}$") as caught:
        whole.with_patches(tmp_path, patient_of=lambda slide: slide.removesuffix("-A"))
    assert caught[0].filename == __file__
    message = (
        f"{tmp_path}: expected slides of the cohort's patients, such as 'p0', got slides of 1 others, the folder has 'x'; "
        f"{other}"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        whole.with_patches(tmp_path, patient_of=lambda slide: "x")


def test_a_folder_that_has_more_slides_than_the_cohort_is_as_it_should_be(tmp_path):
    for i in range(20):
        write(tmp_path / f"p{i}-A.h5")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (
            cohort().with_patches(tmp_path, patient_of=lambda slide: slide[:-2]).missing()["slide"].sum() == 0
        )
