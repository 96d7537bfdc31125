"""`python -m healnet predict`: what it writes, and what it says when it cannot."""

import numpy as np
import pandas as pd
import pytest
import torch

from healnet import HEALNet
from healnet.__main__ import main
from healnet.encoders import OmicEncoder

pytest.importorskip("huggingface_hub", reason="the extra hub is not installed")


@pytest.fixture
def folder(tmp_path):
    from healnet.training import TrainedModel

    torch.manual_seed(0)
    model = HEALNet(
        {"rna": OmicEncoder(2), "cnv": OmicEncoder(1)}, output="value", num_latents=2, latent_dim=4
    )
    saved = TrainedModel(model, features={"rna": ["A", "B"], "cnv": ["A"]})
    saved.save(tmp_path / "model")
    (tmp_path / "rna.csv").write_text("id,B,A\n01,2,1\n02,4,3\n")
    (tmp_path / "cnv.csv").write_text("id,A\n01,5\n")
    tables = {
        "rna": pd.DataFrame({"A": [1.0, 3], "B": [2.0, 4]}, ["01", "02"]),
        "cnv": pd.DataFrame({"A": [5.0]}, ["01"]),
    }
    return tmp_path, saved.predict(tables)


def test_a_table_per_modality(folder, capsys):
    path, expected = folder
    arguments = [
        "predict",
        path / "model",
        f"rna={path / 'rna.csv'}",
        f"cnv={path / 'cnv.csv'}",
        "--output",
        path / "out.csv",
    ]
    assert main([str(argument) for argument in arguments]) == 0
    found = pd.read_csv(path / "out.csv", dtype={"patient": str}).set_index("patient")
    assert list(found.index) == ["01", "02"]  # ids are text: zeros in front are kept
    np.testing.assert_allclose(found["value"], expected, atol=1e-6)
    assert capsys.readouterr().err == ""


def test_what_cannot_be_done_is_said_and_nothing_written(folder, capsys):
    path, _ = folder
    (path / "bad.csv").write_text("id,A\n01,high\n")
    for tables, message in (
        (
            ["rna.csv"],
            "error: column 'A' is a feature of several modalities, 'rna', 'cnv': name it 'rna:A' and so on\n",
        ),
        (
            ["rna.csv", "cnv.csv"],
            "error: expected one table, or each as modality=table.csv and each modality once\n",
        ),
        (["no.csv"], "no.csv: no such file\n"),
        (["cnv=bad.csv"], "bad.csv: expected numbers in column 'A', got 'high' in line 2\n"),
        (["cnvs=cnv.csv"], "error: unknown modality 'cnvs': the model's tables are ['rna', 'cnv']\n"),
    ):
        given = [t.replace("=", f"={path}/") if "=" in t else f"{path}/{t}" for t in tables]
        assert main(["predict", str(path / "model"), *given, "--output", str(path / "out.csv")]) == 1
        assert message in capsys.readouterr().err
    assert not (path / "out.csv").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--output", "nowhere/out.csv"],
            "error: expected --output as a file in a folder that is there, got nowhere/out.csv\n",
        ),
        (["--output", "."], "error: expected --output as a file in a folder that is there, got .\n"),
        (
            ["--output", "out.csv", "--times", "1y,2"],
            "error: expected --times as numbers, as in 365,1825, got '1y,2'\n",
        ),
    ],
)
def test_wrong_options_are_said_before_any_work(folder, capsys, monkeypatch, options, message):
    monkeypatch.chdir(folder[0])
    assert main(["predict", "no_model", "rna=rna.csv", *options]) == 1
    assert capsys.readouterr().err == message


def test_a_warning_of_risks_and_curves_is_said_once(tmp_path, capsys):
    from healnet.survival import BreslowBaseline
    from healnet.training import TrainedModel

    model = HEALNet({"rna": OmicEncoder(3)}, output="cox", num_latents=2, latent_dim=4)
    baseline = BreslowBaseline([100.0, 200.0], [0.1, 0.3])
    saved = TrainedModel(model, features={"rna": ["A", "B", "C"]}, baselines=baseline)
    saved.save(tmp_path / "model")
    (tmp_path / "t.csv").write_text("id;B;A\n007;2;1\n")
    arguments = [tmp_path / "model", tmp_path / "t.csv", "--output", tmp_path / "out.csv", "--times", "1,5"]
    assert main(["predict", *map(str, arguments)]) == 0
    header = (tmp_path / "out.csv").read_text().splitlines()[0]
    assert header == "patient,risk,survival_1,survival_5"
    assert capsys.readouterr().err == (
        "warning: modality 'rna': 1 of 3 features are not in the table and count as missing: 'C'\n"
        "warning: times go from 1 to 5, and training saw events from 100 to 200: curves are flat outside; are the times in "
        "the unit of training?\n"
    )
    assert (tmp_path / "out.csv").read_text().splitlines()[1].startswith("007,")


def test_columns_of_times_are_named_in_full(tmp_path, capsys):
    from healnet.survival import BreslowBaseline
    from healnet.training import TrainedModel

    model = HEALNet({"rna": OmicEncoder(1)}, output="cox", num_latents=2, latent_dim=4)
    baseline = BreslowBaseline([100.5, 5e6], [0.1, 0.3])
    TrainedModel(model, features={"rna": ["A"]}, baselines=baseline).save(tmp_path / "model")
    (tmp_path / "t.csv").write_text("id,A\np1,2\n")
    times = "365.25,1234567,1234568.5"
    arguments = [tmp_path / "model", tmp_path / "t.csv", "--output", tmp_path / "out.csv", "--times", times]
    assert main(["predict", *map(str, arguments)]) == 0
    header = (tmp_path / "out.csv").read_text().splitlines()[0]
    assert header == "patient,risk,survival_365.25,survival_1234567,survival_1234568.5"
    assert capsys.readouterr().err == ""
