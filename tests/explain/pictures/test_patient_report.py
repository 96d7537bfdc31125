import base64
import html
import io
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.image import imread

from healnet import HEALNet
from healnet._plotting import new_axes
from healnet._png import png
from healnet.encoders import OmicEncoder, PatchEncoder
from healnet.explain import (
    gradient_x_input,
    occlude_modalities,
    patient_report,
    plot_slide_panels,
    shapley_modalities,
)
from healnet.inputs import Masked, PatchBag
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


def text_of(report):
    text = report.path.read_text(encoding="utf-8")
    assert report.html == text
    return text


def test_the_numbers_in_the_file_are_those_of_the_model(tmp_path, small, patient):
    report = patient_report(
        small,
        patient,
        "P-1",
        tmp_path / "new",
        features={"rna": GENES},
        cohort_risks=[-9.0, -8.0, 99.0, 98.0],
    )
    assert report.path == tmp_path / "new" / "report_P-1.html"
    text = text_of(report)
    shares = shapley_modalities(small, patient)
    assert f"<dd><bdi>{float(shares.risk[0]):.3f}</bdi></dd>" in text
    assert f"{float(shares['rna'][0]):+.3f}" in text
    assert ">absent<" in text
    assert "<dd><bdi>protein</bdi></dd>" in text
    assert "<dd><bdi>50% of 4 patients</bdi></dd>" in text
    scores = gradient_x_input(small, patient)["rna"][0].abs()
    listed = re.findall(r'class="name"><bdi>(FOXM1|&lt;b&gt;|TP53)</bdi>.*?class="number">([-\d.]+)<', text)
    expected = [("FOXM1", "0.5"), ("&lt;b&gt;", "-1"), ("TP53", "2")]
    assert listed == [expected[i] for i in scores.argsort(descending=True)]


@pytest.mark.parametrize(
    "name", ['<img src=x onerror="alert(1)">', "../../up", "a\x00b", "\u202eevil", "%3Cb%3E"]
)
def test_hostile_ids_neither_leave_the_folder_nor_become_markup(tmp_path, small, patient, name):
    folder = tmp_path / "reports"
    report = patient_report(
        small,
        patient,
        name,
        folder,
        features={"rna": [name, name, name]},
        units={"rna": name},
        time_unit=name,
        details={name: name},
        date=name,
    )
    path = report.path
    assert path.parent == folder
    assert [p.name for p in folder.iterdir()] == [path.name]
    assert re.fullmatch(r"report_[A-Za-z0-9_.%-]+\.html", path.name)

    class Tags(HTMLParser):
        found: list[str] = []  # noqa: RUF012

        def handle_starttag(self, tag, attrs):
            self.found.append(tag)

    Tags().feed(text_of(report))
    assert "img" not in Tags.found
    assert "<script" not in text_of(report)


def test_maps_and_curve_are_inside(tmp_path, small, patient):
    ax = new_axes(1.0, 1.0)
    curve = ([10, 20], [0.8, 0.3])
    maps = {"Slide": ax, "Given": png(ax.figure)}
    text = text_of(patient_report(small, patient, "P", tmp_path, curve=curve, maps=maps, time_unit="months"))
    assert text.count('src="data:image/png;base64,') == 2
    assert "<polyline" in text
    assert "time (months)" in text


def pictures(text, attribute):
    found = re.findall(rf'{attribute}="data:image/png;base64,([^"]*)"', text)
    return [imread(io.BytesIO(base64.b64decode(image))) for image in found]


def test_phones_get_a_map_of_their_own_in_which_panels_stand_below_each_other(tmp_path, small, patient):
    """Scaled down to 390 pixels, texts of a wide figure would have a third of their size."""
    slide = SimpleNamespace(
        width=400, height=200, mpp=None, name="s", thumbnail=lambda _: np.full((200, 400, 3), 200, np.uint8)
    )
    grid = plot_slide_panels(slide, [[0, 0], [200, 0]], 100, [1.0, 2.0])
    before = [figure_size(grid), *(ax.get_subplotspec() for ax in grid)]
    text = text_of(patient_report(small, patient, "P", tmp_path, maps={"Slide": grid}))
    (wide,), (narrow,) = pictures(text, " src"), pictures(text, "srcset")
    assert wide.shape[1] > 1.5 * wide.shape[0]  # side by side
    assert narrow.shape[0] > 0.8 * narrow.shape[1]
    assert narrow.shape[1] == round(3.6 * 220)
    assert '<source media="(max-width: 600px)"' in text
    assert before == [figure_size(grid), *(ax.get_subplotspec() for ax in grid)]


def figure_size(panels):
    return panels.figure.get_size_inches().tolist()


def facts(text):
    return dict(re.findall(r"<dt>(.*?)</dt><dd><bdi>(.*?)</bdi></dd>", text))


def test_it_states_what_was_computed_when_and_from_what(tmp_path):
    model = HEALNet({"slide": PatchEncoder(3, positions=False)}, output="cox", depth=1, num_latents=2)
    bag = PatchBag(torch.ones(1, 2000, 3), torch.zeros(1, 2000, 2), torch.arange(2000)[None] < 1481)
    details = {"encoder": "a model", "slide": "S-1"}
    found = facts(
        text_of(patient_report(model, {"slide": bag}, "P", tmp_path, details=details, date="2026-02-01"))
    )
    assert found["patches of slide"] == "1,481"
    assert found["encoder"] == "a model"
    assert found["slide"] == "S-1"
    assert found["date"] == "2026-02-01"
    assert "log hazard" in found
    today = facts(text_of(patient_report(model, {"slide": bag}, "P", tmp_path)))
    assert re.fullmatch(r"\d{4}-\d{2}-\d{2}", today["date"])


def test_raw_values_and_units_stand_beside_the_scores(tmp_path, small, patient):
    raw = {"FOXM1": 1234.5, "<b>": 0.25, "TP53": 24567.3}
    units = {"rna": {"FOXM1": "TPM"}}
    for features in ({"rna": raw}, {"rna": pd.Series(raw)}):
        text = text_of(patient_report(small, patient, "P", tmp_path, features=features, units=units))
        listed = dict(
            re.findall(r'class="name"><bdi>(FOXM1|&lt;b&gt;|TP53)</bdi>.*?class="number">(.*?)<', text)
        )
        assert listed == {"FOXM1": "1234 TPM", "&lt;b&gt;": "0.25", "TP53": "24567"}
        assert "Values as the model got them" not in text
    text = text_of(patient_report(small, patient, "P", tmp_path, features={"rna": GENES}, units={"rna": "z"}))
    assert ">-1 z<" in text
    assert "Values as the model got them" in text


def test_a_class_model_is_reported_by_its_predicted_class(tmp_path, patient):
    torch.manual_seed(0)
    encoders = {"rna": OmicEncoder(3, token_dim=4), "protein": OmicEncoder(2, token_dim=4)}
    model = HEALNet(encoders, out_dim=3, output="classes").double().eval()
    text = text_of(patient_report(model, patient, "P", tmp_path))
    with torch.no_grad():
        logits = model(patient)[0]
    assert facts(text)["predicted class"] == str(int(logits.argmax()))
    assert (
        facts(text)["log-probability of the predicted class"] == f"{float(logits.log_softmax(0).max()):.3f}"
    )
    assert "Larger is worse" not in text


def test_a_notebook_shows_the_report(tmp_path, small, patient):
    report = patient_report(small, patient, "<P>", tmp_path)
    shown = report._repr_html_()
    (document,) = re.findall(r'<iframe srcdoc="([^"]*)" sandbox', shown)
    assert html.unescape(document) == report.html
    assert report.html not in repr(report)


def test_a_lacking_modality_lists_no_genes(tmp_path, small, patient):
    text = text_of(patient_report(small, patient, "P", tmp_path, features={"protein": ["A", "B"]}))
    assert "The patient lacks this modality." in text
    assert "<bdi>A</bdi>" not in text


def test_a_modality_that_is_none_is_lacking_like_a_masked_one(tmp_path, small, patient):
    lacking = {**patient, "protein": None}
    path = patient_report(small, lacking, "P", tmp_path, features={"protein": ["A", "B"]})
    assert "<dt>lacks</dt><dd><bdi>protein</bdi></dd>" in text_of(path)
    assert "The patient lacks this modality." in text_of(path)
    with pytest.raises(
        ValueError, match=r"^modality 'ct': expected one that the inputs have, \['rna', 'protein'\]$"
    ):
        patient_report(small, patient, "Q", tmp_path, features={"ct": ["A"]})


def test_a_cox_curve_has_the_median_of_its_baseline(tmp_path, small, patient):
    target = SurvivalTarget(torch.tensor([3.0, 170.0, 250.0, 400.0]), torch.tensor([True] * 4))
    baseline = BreslowBaseline.fit(torch.zeros(4), target)
    # As a model's own output comes: with a gradient.
    survival = baseline.survival(torch.zeros(1, requires_grad=True), baseline.times)[0]
    curve = (baseline.times, survival)
    text = text_of(
        patient_report(small, patient, "P", tmp_path, curve=curve, curve_steps=True, cohort_risks=survival)
    )
    assert f"median {baseline.median(torch.zeros(1)).item():.0f}<" in text


def test_masked_features_take_no_place_in_the_list(tmp_path, small):
    table = Masked(torch.zeros(1, 3).double(), torch.tensor([[False, False, True]]))
    text = text_of(patient_report(small, {"rna": table}, "P", tmp_path, features={"rna": GENES}, k=2))
    assert re.findall(r'class="name"><bdi>(.*?)</bdi>', text) == ["rna", "TP53"]


def test_wrong_requests_are_refused(tmp_path, small, patient):
    two = {"rna": torch.zeros(2, 3, dtype=torch.float64)}
    with pytest.raises(ValueError, match=r"^expected the inputs of one patient, got 2$"):
        patient_report(small, two, "P", tmp_path)
    message = r"^modality 'rna': expected names of the features of an input \(1, 3\), got 1$"
    with pytest.raises(ValueError, match=message):
        patient_report(small, patient, "P", tmp_path, features={"rna": ["A"]})
    with pytest.raises(ValueError, match=r"^expected cohort_risks of shape \(n,\), got \(0,\)$"):
        patient_report(small, patient, "P", tmp_path, cohort_risks=np.array([]))
    assert not list(tmp_path.iterdir())


def test_a_patient_of_many_modalities_is_reported_by_occlusion(tmp_path):
    torch.manual_seed(0)
    names = [f"m{i}" for i in range(30)]
    small = {"depth": 1, "num_latents": 2, "latent_dim": 4, "num_heads": 1, "head_dim": 2}
    model = HEALNet({name: OmicEncoder(2, token_dim=3) for name in names}, output="cox", **small)
    has = torch.arange(30) < 20
    inputs = {name: Masked(torch.randn(1, 2), has[i : i + 1]) for i, name in enumerate(names)}
    text = text_of(patient_report(model, inputs, "P", tmp_path))
    expected = occlude_modalities(model, inputs)
    shown = dict(re.findall(r'class="name"><bdi>(m\d+)</bdi>.*?class="number">(.*?)<', text))
    assert shown == {n: f"{float(expected[n][0]):+.3f}" if has[i] else "absent" for i, n in enumerate(names)}
    assert "The log hazard with everything less that without the modality." in text
    few = patient_report(model, {name: inputs[name] for name in names[15:]}, "P", tmp_path)
    assert "Shapley values: from a log hazard of" in text_of(few)  # 5 of 15 are there


def test_names_may_be_the_columns_of_a_table_and_values_its_row(tmp_path, small, patient):
    table = pd.DataFrame([[1.0, 2.0, 3.0]], columns=GENES)
    plain = text_of(patient_report(small, patient, "P", tmp_path, features={"rna": GENES}))
    for names in (table.columns, np.array(GENES)):
        assert text_of(patient_report(small, patient, "P", tmp_path, features={"rna": names})) == plain
    message = r"^modality 'rna': expected one number for each feature, got a table: pass one row of it$"
    with pytest.raises(ValueError, match=message):
        patient_report(small, patient, "P", tmp_path, features={"rna": table})
