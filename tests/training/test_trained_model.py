"""A saved model predicts alone, and only what it was saved as."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from healnet import HEALNet, Tokens
from healnet.baselines import MeanFusion
from healnet.data import Cohort, CohortDataset, Standardizer
from healnet.encoders import LearnedEncoder, ModalityEncoder, OmicEncoder
from healnet.inputs import element_mask, unmask
from healnet.survival import BreslowBaseline, SurvivalTarget, TimeBins, risk_score, survival_function
from healnet.training import TrainedModel

TIMES = [200.0, 900.0]


@pytest.fixture
def folder(trained, tmp_path):
    trained.save(tmp_path / "model", data="50 made patients", metrics={"Harrell's C": 0.8125})
    return tmp_path / "model"


def expected(trained, tables):
    cohort = Cohort(tables)
    return trained.predict(cohort), trained.survival(cohort, TIMES)


def test_a_folder_gives_the_risks_and_curves_of_what_was_saved(trained, folder, new_tables):
    loaded = TrainedModel.load(folder)
    risks, curves = expected(trained, new_tables)
    for data in (new_tables, Cohort(new_tables), Cohort(new_tables).to_frame()):
        found = loaded.predict(data)
        assert list(found.index) == list(new_tables["rna"].index)
        np.testing.assert_allclose(found, risks, atol=1e-6)
        np.testing.assert_allclose(loaded.survival(data, TIMES), curves, atol=1e-6)
    assert loaded.survival(new_tables, TIMES).columns.tolist() == TIMES


@pytest.mark.slow
def test_a_fresh_process_reads_a_csv_in_another_order_with_gaps_and_strangers(
    trained, folder, new_tables, tmp_path
):
    new_tables["rna"]["G3"] = np.nan
    risks, curves = expected(trained, new_tables)
    flat = Cohort(new_tables).to_frame().rename(columns=lambda name: name.split(":")[1])
    flat = flat.drop(columns="G3").assign(UNKNOWN=1.0, note="text")
    flat[flat.columns[::-1]].to_csv(tmp_path / "table.csv")
    command = [
        sys.executable,
        "-m",
        "healnet",
        "predict",
        folder,
        tmp_path / "table.csv",
        "--times",
        "200,900",
    ]
    done = subprocess.run(
        [*command, "--output", tmp_path / "risks.csv"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == (
        "warning: modality 'rna': 1 of 7 features are not in the table and count as missing: 'G3'\n"
    )
    found = pd.read_csv(tmp_path / "risks.csv", index_col="patient")
    assert list(found.columns) == ["risk", "survival_200", "survival_900"]
    assert list(found.index) == list(new_tables["rna"].index)
    np.testing.assert_allclose(found["risk"], risks, atol=1e-6)
    np.testing.assert_allclose(found.iloc[:, 1:], curves, atol=1e-6)


def test_a_modality_may_be_absent_for_all(trained, folder, new_tables):
    del new_tables["rna"]
    new_tables["clinical"] = new_tables["clinical"][["size", "age", "grade"]]
    absent = pd.DataFrame(np.nan, new_tables["clinical"].index, [f"G{j}" for j in range(7)])
    risks = trained.predict(Cohort({"clinical": new_tables["clinical"], "rna": absent}))
    found = TrainedModel.load(folder).predict(new_tables)
    np.testing.assert_allclose(found, risks, atol=1e-6)


def test_modalities_the_model_does_not_have_are_left_out(trained, folder, new_tables):
    risks, _ = expected(trained, new_tables)
    more = {**new_tables, "other": new_tables["rna"].add_prefix("X")}
    loaded = TrainedModel.load(folder)
    np.testing.assert_allclose(loaded.predict(more), risks, atol=1e-6)
    np.testing.assert_allclose(loaded.predict(Cohort(more)), risks, atol=1e-6)
    with pytest.raises(
        ValueError, match=r"^expected some of the modalities \['clinical', 'rna'\], got \['other'\]$"
    ):
        loaded.predict({"other": more["other"]})


def test_what_is_no_table_or_has_none_of_the_modalities_is_refused(folder, new_tables):
    loaded = TrainedModel.load(folder)
    for wrong in (new_tables["rna"].to_numpy(), "table.csv"):
        message = f"^expected a Cohort, a DataFrame or one per modality by name, got {type(wrong).__name__}$"
        with pytest.raises(ValueError, match=message):
            loaded.predict(wrong)
    other = pd.DataFrame({"x": [1.0]}, index=["stranger"])
    both = Cohort({"clinical": new_tables["clinical"], "other": other})
    with pytest.warns(
        UserWarning, match=r"^patient 'stranger': none of the model's features is known: the prediction is"
    ):
        risks = loaded.predict(both)
    known = loaded.predict({"clinical": new_tables["clinical"]})
    np.testing.assert_allclose(risks[:-1], known, atol=1e-6)
    assert np.isfinite(risks["stranger"])


def test_curves_and_risks_warn_of_other_units(trained, folder, new_tables):
    loaded = TrainedModel.load(folder)
    thousandfold = {name: table * 1000 for name, table in new_tables.items()}
    with pytest.warns(
        UserWarning, match=r"^modality '(clinical|rna)': half of the values are .* standard dev"
    ) as found:
        loaded.predict(thousandfold)
    assert {warning.filename for warning in found} == {__file__}
    first = min(baseline.times[0] for baseline in trained.baselines)
    with pytest.warns(
        UserWarning, match=rf"^times go from .*, and training saw events from {first:g} to"
    ) as found:
        loaded.survival(new_tables, [first / 2])
    assert found[0].filename == __file__


def test_a_model_that_is_saved_again_is_the_same(folder, new_tables, tmp_path):
    first = TrainedModel.load(folder)
    first.save(tmp_path / "again")
    for name in ("config.json", "model.safetensors", "README.md"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes(), name


def test_the_card_says_data_metrics_limits_and_how_to_load(trained, folder):
    card = (folder / "README.md").read_text()
    for line in (
        "50 made patients",
        "| Harrell's C | 0.8125 |",
        "- `clinical`: 3 features",
        "- `rna`: 7 features",
    ):
        assert line in card
    assert 'TrainedModel.load("FOLDER")' in card
    assert "not a medical device" in card
    assert "The mean of 2 models" in card


def test_a_folder_says_what_it_tells_of_the_training_patients(trained, tmp_path):
    trained.save(tmp_path / "mean")
    told = (tmp_path / "mean" / "README.md").read_text().split("## What the files reveal")[1]
    assert "- the times of their events" in told
    assert "every value" not in told
    cohort = Cohort({"rna": pd.DataFrame({"a": np.arange(12.0), "b": np.arange(12) ** 2.0})})
    scaler = Standardizer("rank").fit(cohort)
    model = HEALNet({"rna": OmicEncoder(2)}, output="value", num_latents=2, latent_dim=4)
    with pytest.warns(
        UserWarning, match=r'^a scaler of the method "rank" is saved with every training value'
    ) as found:
        TrainedModel(model, scaler=scaler).save(tmp_path / "rank")
    assert found[0].filename == __file__
    told = (tmp_path / "rank" / "README.md").read_text().split("## What the files reveal")[1]
    assert "- **every value of each feature, sorted**" in told
    assert "times" not in told
    assert "121.0" in (tmp_path / "rank" / "config.json").read_text()


def small(output, out_dim, **options):
    torch.manual_seed(0)
    encoders = {"rna": OmicEncoder(4, tokens=2, token_dim=8)}
    return HEALNet(
        encoders, output=output, out_dim=out_dim, num_latents=4, latent_dim=8, num_heads=1, **options
    )


@pytest.fixture
def rna():
    return pd.DataFrame(np.random.default_rng(0).normal(size=(5, 4)), list("abcde"), list("WXYZ"))


def raw(model, rna):
    with torch.no_grad():
        return model.eval()(CohortDataset(Cohort({"rna": rna})).batch().inputs)


def saved_and_loaded(model, path, load=None, **options):
    TrainedModel(model, features={"rna": list("WXYZ")}, **options).save(path)
    return TrainedModel.load(path, **(load or {}))


def test_a_discrete_model_keeps_its_bins(rna, tmp_path):
    model, bins = small("discrete", 3, depth=1), TimeBins([0, 10, 20, 40])
    loaded = saved_and_loaded(model, tmp_path, bins=bins)
    np.testing.assert_allclose(loaded.predict(rna), risk_score(raw(model, rna)), atol=1e-6)
    curves = survival_function(raw(model, rna), bins).at([5, 30])
    np.testing.assert_allclose(loaded.survival(rna, [5, 30]), curves, atol=1e-6)


def test_classes_have_names_and_probabilities(rna, tmp_path):
    model = small("classes", 3)
    loaded = saved_and_loaded(model, tmp_path, classes=["low", "mid", "high"])
    found = loaded.predict_proba(rna)
    assert list(found.columns) == ["low", "mid", "high"]
    expected = raw(model, rna).softmax(dim=1)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    named = [["low", "mid", "high"][i] for i in expected.argmax(dim=1)]
    assert loaded.predict(rna).to_dict() == dict(zip("abcde", named, strict=True))
    with pytest.raises(
        ValueError, match=r"^expected a model of the output 'classes', got 'cox'; see predict$"
    ):
        TrainedModel(small("cox", 1)).predict_proba(rna)


def test_a_value_and_one_cox_model(rna, tmp_path):
    value, cox = small("value", 1), small("cox", 1)
    np.testing.assert_allclose(
        saved_and_loaded(value, tmp_path / "v").predict(rna), raw(value, rna)[:, 0], atol=1e-6
    )
    baseline = BreslowBaseline.fit(raw(cox, rna), SurvivalTarget([1, 2, 3, 4, 5], [1, 1, 0, 1, 1]))
    loaded = saved_and_loaded(cox, tmp_path / "c", baselines=baseline)
    np.testing.assert_allclose(loaded.predict(rna), raw(cox, rna)[:, 0], atol=1e-6)
    np.testing.assert_allclose(
        loaded.survival(rna, [2.5]), baseline.survival(raw(cox, rna), [2.5]), atol=1e-6
    )
    with pytest.raises(
        ValueError, match=r"^expected baselines or time bins, which curves need, got a model of output 'v"
    ):
        TrainedModel.load(tmp_path / "v").survival(rna, [1])


def test_a_model_without_names_of_features_asks_for_them(rna):
    with pytest.raises(
        ValueError, match=r"^modality 'rna': expected a model with names of its features, got one with"
    ):
        TrainedModel(small("value", 1)).predict({"rna": rna})


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_tied_layers_and_precision_are_kept(rna, tmp_path, dtype):
    model = small("value", 1, depth=3, tie_layers=True).to(dtype)
    loaded = saved_and_loaded(model, tmp_path).models[0]
    assert loaded.layers[0] is loaded.layers[2]
    assert loaded.latents.dtype == dtype
    assert loaded.arguments == model.arguments
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor, rtol=0, atol=0)


class Scaled(ModalityEncoder):
    """An encoder of a user's own: its argument is kept as an attribute of the same name."""

    token_dim = 3

    def __init__(self, factor):
        super().__init__()
        self.factor = factor
        self.weight = nn.Parameter(torch.randn(3))

    def forward(self, inputs):
        values, mask = unmask(inputs)
        return Tokens(self.factor * values.unsqueeze(-1) * self.weight, element_mask(mask, values.shape))


def test_a_custom_encoder_is_rebuilt_from_its_class(rna, tmp_path):
    model = HEALNet({"rna": Scaled(2.5)}, output="value", num_latents=4, latent_dim=8)
    loaded = saved_and_loaded(model, tmp_path, {"encoders": [Scaled]})
    assert loaded.models[0].encoders["rna"].factor == 2.5
    np.testing.assert_allclose(loaded.predict(rna), raw(model, rna)[:, 0], atol=1e-6)
    assert 'TrainedModel.load("FOLDER", encoders=[Scaled])' in (tmp_path / "README.md").read_text()
    with pytest.raises(
        ValueError,
        match=r"^modality 'rna': unknown encoder 'Scaled'; pass its class as `encoders=\[Scaled\]`$",
    ):
        TrainedModel.load(tmp_path)


def test_a_network_of_the_users_is_built_by_the_users_function(rna, tmp_path):
    def build(num_latents=4):
        network = nn.Sequential(nn.Unflatten(1, (4, 1)), nn.Linear(1, 3))
        return HEALNet(
            {"rna": LearnedEncoder(network, 3, mask=torch.Tensor.clone)},
            output="value",
            num_latents=num_latents,
            latent_dim=8,
        )

    model = build()
    trained = TrainedModel(model, features={"rna": list("WXYZ")})
    with pytest.raises(
        ValueError,
        match=r"^modality 'rna': an argument of its LearnedEncoder is not JSON: .*; pass `build=`, a function",
    ):
        trained.save(tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    with pytest.raises(
        ValueError,
        match=r"^expected a network that build\(\) makes again, got another one: latents is of shape \(4, 8\), and \(2, 8\)",
    ):
        trained.save(tmp_path / "refused", build=lambda: build(num_latents=2))
    trained.save(tmp_path, build=build)
    loaded = TrainedModel.load(tmp_path, build=build)
    np.testing.assert_allclose(loaded.predict(rna), raw(model, rna)[:, 0], atol=1e-6)
    with pytest.raises(
        ValueError, match=r"expected `build=`, a function that makes the model: it was saved with one$"
    ):
        TrainedModel.load(tmp_path)


def test_without_a_declared_output_nothing_is_saved(rna):
    with pytest.raises(
        ValueError, match=r'^expected a declared output, as HEALNet\(\.\.\., output="cox"\), got None$'
    ):
        TrainedModel(small(None, 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"centers": [1.0, 2.0]}, r"^expected centers of 1 models, got 2$"),
        ({"scales": [0.0]}, r"^expected finite centers and positive scales$"),
        ({"features": {"dna": ["A"]}}, r"^unknown modality 'dna': the model's modalities are \['rna'\]$"),
        ({"bins": TimeBins([0, 1])}, r"^expected time bins with the output 'discrete' alone, got TimeBins"),
        ({"classes": ["low", "high"]}, r"^expected classes for the 1 outputs of the model, got 2$"),
        (
            {"features": {"rna": ["A", "B", "C"]}},
            r"^modality 'rna': expected the name of each feature of its encoder \(4\) once, got 3 names, 3 of them dif",
        ),
        (
            {"features": {"rna": ["A", "B", "C", "A"]}},
            r"^modality 'rna': expected the name of each feature of its encoder \(4\) once, got 4 names, 3 of them dif",
        ),
        ({"card": {"metrics": {"C": float("nan")}}}, r"^metric 'C': expected a finite number, got nan$"),
        ({"card": {"metrics": {"C": "0.7"}}}, r"^metric 'C': expected a finite number, got '0.7'$"),
    ],
)
def test_parts_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TrainedModel(small("cox", 1), **options)


@pytest.mark.parametrize(
    ("output", "options", "message"),
    [
        ("value", {"centers": [5.0]}, "expected centers and scales of risks alone, got some with 'value'"),
        ("classes", {"scales": [2.0]}, "expected centers and scales of risks alone, got some with 'classes'"),
        (
            "value",
            {"baselines": BreslowBaseline([1.0], [0.1])},
            "expected baselines with the output 'cox' alone, got some with 'value'",
        ),
        (
            "cox",
            {"classes": ["low"]},
            "expected different classes, with the output 'classes', got ['low'] with 'cox'",
        ),
        (
            "classes",
            {"classes": ["a", "b", "a"]},
            "expected different classes, with the output 'classes', got ['a', 'b', 'a'] with 'classes'",
        ),
    ],
)
def test_parts_of_another_output_are_refused(output, options, message):
    """Most would change a prediction without a word, or be left unused."""
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        TrainedModel(small(output, 3 if output == "classes" else 1), **options)


def test_predictions_have_the_ids_of_the_tables(rna):
    """Ids of numbers stay numbers: as text, `table["risk"] = ...` would fill the column with NaN."""
    baseline = BreslowBaseline([1.0, 2.0], [0.1, 0.5])
    model = TrainedModel(small("cox", 1), features={"rna": list("WXYZ")}, baselines=baseline)
    numbered = rna.set_axis([7, 30, 4, 100, 12])
    for data in (numbered, {"rna": numbered}):
        assert model.predict(data).index.tolist() == [7, 30, 4, 100, 12]
        assert model.survival(data, [1.5]).index.tolist() == [7, 30, 4, 100, 12]
    joined = numbered.assign(risk=model.predict(numbered))
    np.testing.assert_array_equal(joined["risk"], model.predict(rna))
    classes = TrainedModel(small("classes", 3), features={"rna": list("WXYZ")})
    assert classes.predict(numbered).index.tolist() == [7, 30, 4, 100, 12]


def test_bins_of_another_number_than_the_outputs_are_refused():
    with pytest.raises(ValueError, match=r"^expected time bins for the 3 outputs of the model, got 2$"):
        TrainedModel(small("discrete", 3), bins=TimeBins([0, 1, 2]))


def test_members_of_another_kind_are_refused():
    with pytest.raises(ValueError, match=r"^expected models of one architecture, got others$"):
        TrainedModel([small("cox", 1), small("value", 1)])


def test_a_file_of_a_folder_is_no_name_on_the_hub(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    with pytest.raises(
        ValueError, match=r"^model/model\.safetensors: expected a folder, or 'owner/name' of the Hub"
    ):
        TrainedModel.load("model/model.safetensors")


def test_a_missing_folder_is_said(tmp_path):
    with pytest.raises(
        ValueError, match=r"nowhere: expected a folder, or 'owner/name' of the Hub, and there is no such"
    ):
        TrainedModel.load(tmp_path / "nowhere")


def test_the_file_holds_names_scaling_order_and_versions(trained, folder):
    config = json.loads((folder / "config.json").read_text())["healnet"]
    assert config["modalities"] == ["clinical", "rna"]
    assert config["features"]["clinical"] == ["age", "grade", "size"]
    assert Standardizer.from_dict(config["scaler"]).to_dict() == trained.scaler.to_dict()
    assert config["torch"] == torch.__version__
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}


def test_a_network_of_another_class_needs_its_function_to_be_saved(rna, tmp_path):
    """It predicts as any other; that plain values do not describe it is said when it is saved, not when it is loaded."""

    def build():
        return MeanFusion({"rna": small("value", 1)}, output="value")

    model = build()
    trained = TrainedModel(model, modalities=["rna"], features={"rna": list("WXYZ")})
    np.testing.assert_allclose(trained.predict(rna), raw(model, rna)[:, 0], atol=1e-6)
    message = "the model is a MeanFusion; pass `build=`, a function that makes the untrained network, here and to load"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        trained.save(tmp_path)
    trained.save(tmp_path, build=build)
    np.testing.assert_allclose(TrainedModel.load(tmp_path, build=build).predict(rna), trained.predict(rna))


class Forgetful(Scaled):
    """Keeps another number than the one it was made with."""

    def __init__(self, factor=1.0):
        super().__init__(2 * factor)


def test_an_encoder_that_changes_its_argument_is_refused_when_it_is_saved(tmp_path):
    model = HEALNet({"rna": Forgetful(2.5)}, output="value", num_latents=4, latent_dim=8)
    message = (
        "expected a network that its arguments make again, got another one: encoders.rna.factor is 5.0, and 10.0 there; "
        "does it keep each argument of its constructor as it is?"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        TrainedModel(model).save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_folder_of_the_first_format_predicts_what_it_did():
    """Recorded by the version that wrote it."""
    folder = Path(__file__).parents[1] / "data" / "saved" / "format_1"
    new = {name: pd.read_csv(folder / f"new_{name}.csv", index_col=0) for name in ("clinical", "rna")}
    expected = pd.read_csv(folder / "expected.csv", index_col=0)
    loaded = TrainedModel.load(folder)
    np.testing.assert_allclose(loaded.predict(new), expected["risk"], atol=1e-6)
    np.testing.assert_allclose(loaded.survival(new, TIMES), expected[["200.0", "900.0"]], atol=1e-6)
    assert loaded.kind == "cox"


def test_an_empty_row_of_a_table_is_predicted_with_the_others(trained, new_tables):
    rna = new_tables["rna"].copy()
    rna.iloc[1] = np.nan
    first = rna.index[0]  # empty in the fixture
    with pytest.warns(
        UserWarning, match=rf"^patient '{first}', '{rna.index[1]}', .*: none of the model's feat"
    ):
        found = trained.predict({"rna": rna})
    known = rna.dropna(how="all")
    np.testing.assert_allclose(found[known.index], trained.predict({"rna": known}), atol=1e-6)
    empty = found.drop(known.index)
    assert len(empty) == 4
    assert empty.nunique() == 1
    with pytest.raises(
        ValueError, match=r"^expected a value of the model's features, got none of 12 patients$"
    ):
        trained.predict({"rna": rna * np.nan})


def test_it_prints_in_a_line(trained):
    assert repr(trained) == "TrainedModel(2 networks, output cox, clinical 3 features, rna 7 features)"


def test_as_a_module_it_gives_what_it_predicts(trained, new_tables):
    batch = trained.batch(new_tables)
    with torch.no_grad():
        found = trained(batch.inputs)
    assert found.shape == (12, 1)
    np.testing.assert_allclose(found[:, 0], trained.predict(new_tables), atol=1e-6)


def test_classes_of_several_networks_are_the_mean_of_their_probabilities(rna):
    torch.manual_seed(1)
    models = [small("classes", 3), small("classes", 3)]
    with torch.no_grad():
        models[1].head.linear.bias.copy_(torch.tensor([50.0, 0.0, -50.0]))
    expected = sum(raw(model, rna).double().softmax(dim=1) for model in models) / 2
    found = TrainedModel(models, features={"rna": list("WXYZ")}).predict_proba(rna)
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.skipif(os.name != "posix", reason="modes of files are POSIX's")
def test_files_have_the_mode_that_the_user_gives_files(folder):
    (folder / "plain").touch()
    modes = {path.name: path.stat().st_mode for path in folder.iterdir()}
    assert set(modes.values()) == {modes["plain"]}
