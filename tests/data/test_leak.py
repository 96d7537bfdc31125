"""Nothing that is fitted may see the test fold: outliers planted there move nothing, down to the weights' last bit."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader

from healnet import HEALNet
from healnet.data import Cohort, CohortDataset, ModalityDropout, Standardizer, collate
from healnet.encoders import OmicEncoder
from healnet.survival import SurvivalTarget, TimeBins, cox_nll, discrete_nll

N = 60
PATIENTS = [f"p{i:02d}" for i in range(N)]
TEST = np.arange(0, N, 4)
TRAIN = np.setdiff1d(np.arange(N), TEST)


def cohort(planted=False):
    generator = np.random.default_rng(0)
    rna = generator.normal(size=(N, 7))
    rna[generator.random((N, 7)) < 0.1] = np.nan
    age = generator.normal(60, 10, size=(N, 1))
    time, event = generator.exponential(30, N), generator.random(N) < 0.5
    if planted:
        rna[TEST], age[TEST] = 1e9, -1e9
        rna[TEST[0], 3] = np.nan
        time[TEST], event[TEST] = 1e6, ~event[TEST]
    tables = {
        "clinical": pd.DataFrame(age, index=PATIENTS, columns=["age"]),
        "rna": pd.DataFrame(rna, index=PATIENTS, columns=list("abcdefg")).drop(index=PATIENTS[1:9:2]),
    }
    return Cohort(tables, SurvivalTarget(time, event), PATIENTS)


def fit(whole: Cohort, train: np.ndarray, loss: str):
    """All that a training script fits: statistics, bins, weights."""
    torch.manual_seed(0)
    scaler = Standardizer().fit(whole[train])
    part = scaler.transform(whole)[train]
    bins = TimeBins.fit(part.target.time, part.target.event, num_bins=4)
    encoders = {name: OmicEncoder(width, tokens=2, token_dim=8) for name, width in part.widths.items()}
    model = HEALNet(
        encoders, out_dim=4 if loss == "discrete" else 1, depth=1, num_latents=4, latent_dim=8, num_heads=1
    )
    hide = ModalityDropout(0.3)
    for batch in DataLoader(CohortDataset(part), batch_size=16, shuffle=True, collate_fn=collate):
        out = model(hide(batch.inputs))
        if loss == "discrete":
            value = discrete_nll(out, torch.as_tensor(bins.transform(batch.time)), batch.event)
        else:
            value = cox_nll(out, batch.time, batch.event)
        gradients = torch.autograd.grad(value, list(model.parameters()), allow_unused=True)
        with torch.no_grad():
            for weight, gradient in zip(model.parameters(), gradients, strict=True):
                if gradient is not None:
                    weight -= 0.01 * gradient
    fitted = {f"weight {name}": tensor for name, tensor in model.state_dict().items()}
    for name, table in scaler.statistics.items():
        fitted[f"statistics {name}"] = torch.tensor(table.to_numpy(dtype=float))
        fitted[f"training table {name}"] = torch.tensor(part.table(name).to_numpy()).nan_to_num(-7.0)
    fitted["bins"] = torch.tensor(bins.edges)
    return fitted


def moved(one, other):
    return [name for name in one if not torch.equal(one[name], other[name])]


@pytest.mark.parametrize("loss", ["cox", "discrete"])
def test_outliers_in_the_test_fold_move_nothing_fitted(loss):
    clean, planted = fit(cohort(), TRAIN, loss), fit(cohort(planted=True), TRAIN, loss)
    assert moved(clean, planted) == []


@pytest.mark.parametrize("loss", ["cox", "discrete"])
def test_the_same_outliers_in_training_move_everything(loss):
    """So the test above can fail."""
    everybody = np.arange(N)
    clean, planted = fit(cohort(), everybody, loss), fit(cohort(planted=True), everybody, loss)
    names = moved(clean, planted)
    assert {"bins", "statistics rna", "statistics clinical", "training table rna"} <= set(names)
    assert any(name.startswith("weight encoders") for name in names)


def test_folds_of_a_cohort_do_not_depend_on_anything_but_the_events():
    flipped = cohort()
    tables = {name: flipped.table(name) * 1e6 for name in flipped.tables}
    folds = zip(flipped.folds(5, seed=1), flipped.replace(tables).folds(5, seed=1), strict=True)
    assert all(np.array_equal(a, b) for one, other in folds for a, b in zip(one, other, strict=True))
