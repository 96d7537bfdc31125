"""The example with five simulated modalities: its simulation, and a quick run as a user would."""

import csv
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from healnet import HEALNet
from healnet.inputs import take
from healnet.survival import SurvivalTarget, concordance
from healnet.testing import check_model

EXAMPLE = Path(__file__).parents[2] / "examples" / "many_modalities.py"


def present(inputs):
    return [x.mask.reshape(len(x.mask), -1).any(dim=1) for x in inputs.values()]


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("many_modalities", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_quick_run(tmp_path):
    result = subprocess.run(
        [sys.executable, str(EXAMPLE), "--quick", "--output", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("Simulated patients")
    with (tmp_path / "many_modalities.csv").open() as file:
        scores = {row["model"]: float(row["seed 0"]) for row in csv.DictReader(file)}
    assert list(scores) == [
        "table",
        "image",
        "volume",
        "series",
        "graph",
        "table + image, late",
        "table + image, fused",
        "all five, late",
        "all five, fused",
    ]
    assert all(0.3 < score < 1 for score in scores.values())
    assert (tmp_path / "many_modalities.png").stat().st_size > 10_000


def test_the_truth_is_planted_as_said(example):
    """The interaction: the sign of the table's second column says nothing, nor does the side; their product says most."""
    inputs, time, event = example.simulate(2000, 7)
    assert all(0.02 < 1 - here.double().mean().item() < 0.08 for here in present(inputs))
    sign = np.sign(inputs["table"].values[:, 1].numpy())
    columns = inputs["image"].values[..., 0].sum(dim=1)
    side = np.sign((columns[:, 6:].sum(1) - columns[:, :6].sum(1)).numpy())
    score = lambda risk: concordance(risk, SurvivalTarget(time, event))  # noqa: E731
    assert score(sign) == pytest.approx(0.5, abs=0.03)
    assert score(side) == pytest.approx(0.5, abs=0.03)
    assert score(sign * side) > 0.7


def test_predictions_of_new_patients_do_not_depend_on_each_other(example):
    """They are in units of the training patients' spread."""
    torch.manual_seed(0)
    (seen, _, _), (new, _, _) = example.simulate(40, 1), example.simulate(20, 2)
    model = HEALNet({"table": example.encoders()["table"]}, num_latents=4, latent_dim=8).eval()
    together, known = example.predict(model, new, seen), example.predict(model, seen, seen)
    rows = torch.tensor([3, 11, 17])
    alone = example.predict(model, {name: take(x, rows) for name, x in new.items()}, seen)
    np.testing.assert_allclose(alone, together[rows], rtol=0, atol=1e-5)
    assert [known.mean(), known.std()] == pytest.approx([0, 1], abs=1e-5)


def test_the_model_keeps_the_laws_on_all_five_at_once(example):
    torch.manual_seed(0)
    inputs, _, _ = example.simulate(12, 1)
    everyone = torch.stack(present(inputs)).all(dim=0)
    rows = everyone.nonzero().flatten()[:3]
    model = HEALNet(example.encoders(), num_latents=4, latent_dim=8, num_heads=1, head_dim=4)
    check_model(model, {name: take(x, rows) for name, x in inputs.items()})
