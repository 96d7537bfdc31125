import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from healnet import HEALNet
from healnet._plotting import new_axes
from healnet.encoders import OmicEncoder
from healnet.explain import gradient_x_input, report, shapley_modalities
from healnet.inputs import Masked
from healnet.survival import BreslowBaseline, SurvivalTarget

GENES = ["FOXM1", "<b>", "TP53"]


@pytest.fixture
def small():
    torch.manual_seed(0)
    return HEALNet(
        {"rna": OmicEncoder(3, token_dim=4), "protein": OmicEncoder(2, token_dim=4)}, output="cox"
    ).double()


@pytest.fixture
def patient():
    return {
        "rna": torch.tensor([[0.5, -1.0, 2.0]], dtype=torch.float64),
        "protein": Masked(torch.zeros(1, 2, dtype=torch.float64), torch.tensor([False])),
    }


def text_of(path):
    return path.read_text(encoding="utf-8")


def test_the_numbers_in_the_file_are_those_of_the_model(tmp_path, small, patient):
    path = report(
        small,
        patient,
        "P-1",
        tmp_path / "new",
        features={"rna": GENES},
        cohort_risks=[-9.0, -8.0, 99.0, 98.0],
    )
    assert path == tmp_path / "new" / "report_P-1.html"
    text = text_of(path)
    shares = shapley_modalities(small, patient)
    assert f"<dd><bdi>{float(shares.risk[0]):.3f}</bdi></dd>" in text
    assert f"{float(shares['rna'][0]):+.3f}" in text
    assert ">absent<" in text
    assert "<dd><bdi>protein</bdi></dd>" in text
    assert "<dd><bdi>50% of 4 patients</bdi></dd>" in text
    scores = gradient_x_input(small, patient)["rna"][0].abs()
    listed = re.findall(r'class="name"><bdi>(FOXM1|&lt;b&gt;|TP53)</bdi>.*?class="number">([-\d.]+)<', text)
    expected = [("FOXM1", "0.50"), ("&lt;b&gt;", "-1.00"), ("TP53", "2.00")]
    assert listed == [expected[i] for i in scores.argsort(descending=True)]


@pytest.mark.parametrize(
    "name", ['<img src=x onerror="alert(1)">', "../../up", "a\x00b", "\u202eevil", "%3Cb%3E"]
)
def test_hostile_ids_neither_leave_the_folder_nor_become_markup(tmp_path, small, patient, name):
    folder = tmp_path / "reports"
    path = report(small, patient, name, folder, features={"rna": [name, name, name]}, time_unit=name)
    assert path.parent == folder
    assert [p.name for p in folder.iterdir()] == [path.name]
    assert re.fullmatch(r"report_[A-Za-z0-9_.%-]+\.html", path.name)

    class Tags(HTMLParser):
        found: list[str] = []  # noqa: RUF012

        def handle_starttag(self, tag, attrs):
            self.found.append(tag)

    Tags().feed(text_of(path))
    assert "img" not in Tags.found
    assert "<script" not in text_of(path)


def test_maps_and_curve_are_inside(tmp_path, small, patient):
    figure = new_axes(1.0, 1.0).figure
    path = report(
        small,
        patient,
        "P",
        tmp_path,
        curve=([10, 20], [0.8, 0.3]),
        maps={"Slide": figure},
        time_unit="months",
    )
    text = text_of(path)
    assert text.count('src="data:image/png;base64,') == 1
    assert "<polyline" in text
    assert "time (months)" in text


def test_a_lacking_modality_lists_no_genes(tmp_path, small, patient):
    text = text_of(report(small, patient, "P", tmp_path, features={"protein": ["A", "B"]}))
    assert "The patient lacks this modality." in text
    assert "<bdi>A</bdi>" not in text


def test_a_modality_that_is_none_is_lacking_like_a_masked_one(tmp_path, small, patient):
    path = report(small, {**patient, "protein": None}, "P", tmp_path, features={"protein": ["A", "B"]})
    assert "<dt>lacks</dt><dd><bdi>protein</bdi></dd>" in text_of(path)
    assert "The patient lacks this modality." in text_of(path)
    with pytest.raises(
        ValueError, match=r"^modality 'ct': expected one that the inputs have, \['rna', 'protein'\]$"
    ):
        report(small, patient, "Q", tmp_path, features={"ct": ["A"]})


def test_a_cox_curve_has_the_median_of_its_baseline(tmp_path, small, patient):
    target = SurvivalTarget(torch.tensor([3.0, 170.0, 250.0, 400.0]), torch.tensor([True] * 4))
    baseline = BreslowBaseline.fit(torch.zeros(4), target)
    # As a model's own output comes: with a gradient.
    survival = baseline.survival(torch.zeros(1, requires_grad=True), baseline.times)[0]
    curve = (baseline.times, survival)
    text = text_of(
        report(small, patient, "P", tmp_path, curve=curve, curve_steps=True, cohort_risks=survival)
    )
    assert f"median {baseline.median(torch.zeros(1)).item():.0f}<" in text


def test_masked_features_take_no_place_in_the_list(tmp_path, small):
    table = Masked(torch.zeros(1, 3).double(), torch.tensor([[False, False, True]]))
    text = text_of(report(small, {"rna": table}, "P", tmp_path, features={"rna": GENES}, k=2))
    assert re.findall(r'class="name"><bdi>(.*?)</bdi>', text) == ["rna", "TP53"]


def test_wrong_requests_are_refused(tmp_path, small, patient):
    two = {"rna": torch.zeros(2, 3, dtype=torch.float64)}
    with pytest.raises(ValueError, match=r"^expected the inputs of one patient, got 2$"):
        report(small, two, "P", tmp_path)
    message = r"^modality 'rna': 1 feature names do not fit an input of shape \(1, 3\)$"
    with pytest.raises(ValueError, match=message):
        report(small, patient, "P", tmp_path, features={"rna": ["A"]})
    with pytest.raises(ValueError, match=r"^expected cohort_risks of shape \(n,\), got \(0,\)$"):
        report(small, patient, "P", tmp_path, cohort_risks=np.array([]))
    assert not list(tmp_path.iterdir())
