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
    from healnet.pretrained import PretrainedModel

    torch.manual_seed(0)
    model = HEALNet(
        {"rna": OmicEncoder(2), "cnv": OmicEncoder(1)}, output="value", num_latents=2, latent_dim=4
    )
    saved = PretrainedModel(model, features={"rna": ["A", "B"], "cnv": ["A"]})
    saved.save_pretrained(tmp_path / "model")
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
    np.testing.assert_allclose(found["value"], expected["value"], atol=1e-6)
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
        (["no.csv"], "No such file or directory"),
        (["cnv=bad.csv"], "error: modality 'cnv': column 'A' is not numeric"),
    ):
        given = [t.replace("=", f"={path}/") if "=" in t else f"{path}/{t}" for t in tables]
        assert main(["predict", str(path / "model"), *given, "--output", str(path / "out.csv")]) == 1
        assert message in capsys.readouterr().err
    assert not (path / "out.csv").exists()
