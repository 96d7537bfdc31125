"""Patients who lack everything that a model takes are equal, whatever their row and batch."""

import numpy as np
import pandas as pd
import pytest
import torch

from healnet import HEALNet
from healnet.data import Cohort
from healnet.encoders import OmicEncoder
from healnet.survival import SurvivalTarget, concordance
from healnet.training import TrainedModel
from healnet.training._outputs import raw_outputs


def cohort(n, lacking):
    """n patients of whom every third, or nearly all, lack the protein, seen through that alone."""
    ids = [f"p{i}" for i in range(n)]
    rng = np.random.default_rng(n)
    protein = pd.DataFrame(rng.normal(size=(n, 7)), index=ids).add_prefix("g")
    lack = np.arange(n) % 3 == 0 if lacking == "some" else np.arange(n) > 0
    age = pd.DataFrame({"age": rng.normal(size=n)}, index=ids)
    target = SurvivalTarget(rng.exponential(size=n), rng.random(n) < 0.7)
    return Cohort({"age": age, "protein": protein[~lack]}, target, ids).select(["protein"]), lack


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    return [HEALNet({"protein": OmicEncoder(7, tokens=3)}, output="cox").eval() for _ in range(2)]


@pytest.mark.parametrize("lacking", ["some", "most"])
@pytest.mark.parametrize("n", [4, 64, 65, 131, 200])
def test_who_has_nothing_gets_one_number(models, n, lacking):
    whole, lack = cohort(n, lacking)
    found = raw_outputs(models, whole)
    for raw, model in zip(found, models, strict=True):
        assert raw.shape == (n, 1)
        assert len(raw[lack].unique()) == 1
        nobody = model({})[0, 0].item()
        assert raw[lack][0, 0].item() == pytest.approx(nobody, abs=1e-6)
        each = torch.cat([raw_outputs([model], whole[[i]])[0] for i in range(0, n, 7)])
        torch.testing.assert_close(raw[::7], each, rtol=0, atol=1e-5)


def test_their_risks_are_tied(models):
    whole, lack = cohort(131, "some")
    names = {"protein": [f"g{i}" for i in range(7)]}
    model = TrainedModel(models, features=names, centers=[0.1, -0.2], scales=[1e-3, 2e-3])
    risk = model.predict(whole)
    assert len(np.unique(risk[lack])) == 1
    assert concordance(risk[lack], whole[lack].target) == 0.5
    assert len(np.unique(risk[~lack])) == (~lack).sum()
