"""Every deep model trains through the one loop, with gaps, and within its budget."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from healnet.data import Cohort
from healnet.survival import SurvivalTarget
from healnet.training import Recipe

sys.path.append(str(Path(__file__).parents[2] / "examples"))
import contenders

RECIPE = Recipe(members=2, epochs=2)


@pytest.fixture
def cohort():
    rng = np.random.default_rng(0)
    ids = [f"p{i}" for i in range(32)]
    tables = {
        name: pd.DataFrame(rng.normal(size=(32, width)), ids, [f"{name}{j}" for j in range(width)])
        for name, width in (("clinical", 2), ("rna", 7), ("cnv", 5))
    }
    tables["rna"].iloc[::4] = np.nan
    return Cohort(tables, SurvivalTarget(rng.exponential(9.0, 32), np.arange(32) % 3 > 0), ids)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in contenders.DEEP if name != "attention MIL"])
def test_every_model_trains_and_predicts_with_gaps(cohort, name):
    model = contenders.fit_deep(name, cohort[:24], RECIPE, 0, budget=1)
    assert len(model.model.models) == 2
    assert np.isfinite(model.predict(cohort[24:])).all()
    curves = model.survival(cohort[24:], [1.0, 5.0])
    assert ((curves >= 0) & (curves <= 1)).all()
    assert all(m.output == "cox" for m in model.model.models)


def test_gene_tokens_are_the_bag_where_there_is_no_slide(cohort):
    model = contenders.DEEP["MCAT"](cohort, RECIPE)
    assert (model.bag, list(model.embed_guides)) == ("rna", ["clinical", "cnv"])
    assert [encoder.tokens for encoder in model.encoders.values()] == [4, "features", 4]


class Steps(nn.Module):
    """Counts its training steps; its risk is right once it has had `enough`."""

    output, enough = "cox", 4

    def __init__(self):
        super().__init__()
        self.weight, self.steps = nn.Parameter(torch.ones(1)), 0

    def forward(self, inputs):
        self.steps += self.training
        risk = inputs["risk"].values
        return self.weight * (risk if self.steps >= self.enough else -risk)


@pytest.mark.filterwarnings("ignore:modality 'risk'. column 'risk' is the follow-up time")  # a perfect risk
@pytest.mark.parametrize(("budget", "steps"), [(1, 2), (2, 4), (3, 4)])
def test_the_budget_buys_longer_training_where_held_out_patients_want_it(monkeypatch, budget, steps):
    time = np.arange(1.0, 41)
    ids = [f"p{i}" for i in range(40)]
    cohort = Cohort(
        {"risk": pd.DataFrame({"risk": -time}, ids)}, SurvivalTarget(time, np.arange(40) % 4 > 0), ids
    )
    monkeypatch.setitem(contenders.DEEP, "steps", lambda cohort, recipe: Steps())
    model = contenders.fit_deep("steps", cohort, RECIPE, 0, budget)
    assert [m.steps for m in model.model.models] == [steps, steps]


def test_a_length_that_diverges_is_passed_over(monkeypatch, cohort):
    class Wild(nn.Linear):
        output = "cox"

        def __init__(self):
            super().__init__(2, 1)

        def forward(self, inputs):
            return 1e5 * super().forward(inputs["clinical"].values)

    monkeypatch.setitem(contenders.DEEP, "wild", lambda cohort, recipe: Wild())
    assert contenders.attempt("wild", cohort, RECIPE, 0) is None
    message = r"^wild: expected a length of training with which it does not diverge, got none$"
    with pytest.raises(ValueError, match=message):
        contenders.fit_deep("wild", cohort, replace(RECIPE, modality_dropout=0.0), 0, 2)
