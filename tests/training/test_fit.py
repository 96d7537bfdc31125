"""The one training loop: what it learns, what it must not see, and how members are averaged."""

import copy
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from healnet import HEALNet
from healnet.data import Cohort, CohortDataset, Standardizer
from healnet.encoders import OmicEncoder
from healnet.inputs import present
from healnet.survival import BreslowBaseline, SurvivalTarget, concordance
from healnet.training import Recipe, build_model, fit_ensemble, train_model

SMALL = Recipe(members=2, epochs=8)


def small_cohort(n=60, seed=0):
    """Two tables that both tell the risk; every fourth patient lacks the second."""
    rng = np.random.default_rng(seed)
    risk = rng.normal(size=n)
    ids = [f"p{i}" for i in range(n)]
    tables = {
        name: pd.DataFrame(rng.normal(size=(n, width)) + risk[:, None], ids).add_prefix(name)
        for name, width in (("clinical", 3), ("rna", 7))
    }
    tables["rna"].iloc[::4] = np.nan
    return Cohort(
        tables, SurvivalTarget(rng.exponential(1000 * np.exp(-2 * risk)), np.arange(n) % 3 > 0), ids
    )


@pytest.fixture(scope="module")
def cohort():
    return small_cohort()


@pytest.fixture(scope="module")
def ensemble(cohort):
    return fit_ensemble(cohort[:40], SMALL, seed=3)


def test_training_lowers_the_loss_and_ranks_new_patients(cohort):
    losses = []
    ensemble = fit_ensemble(cohort[:40], Recipe(members=1, epochs=30), progress=losses.append)
    assert len(losses) == 30
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.05
    assert concordance(ensemble.predict(cohort[40:]), cohort.target[40:]) > 0.75


def test_the_same_seed_gives_the_same_risks_and_another_seed_others(cohort, ensemble):
    again, other = (fit_ensemble(cohort[:40], SMALL, seed=seed) for seed in (3, 4))
    np.testing.assert_array_equal(again.predict(cohort), ensemble.predict(cohort))
    assert np.abs(other.predict(cohort) - ensemble.predict(cohort)).max() > 0.01


def test_members_are_averaged_in_units_of_the_training_patients_spread(cohort, ensemble):
    scaler = Standardizer().fit(cohort[:40])
    inputs = CohortDataset(scaler.transform(cohort)).batch().inputs
    with torch.no_grad():
        raw = torch.stack([model(inputs).squeeze(1) for model in ensemble.models]).double().numpy()
    seen = raw[:, :40]
    expected = ((raw - seen.mean(1, keepdims=True)) / seen.std(1, keepdims=True)).mean(0)
    np.testing.assert_allclose(ensemble.predict(cohort), expected, atol=1e-5)
    assert np.corrcoef(raw)[0, 1] < 0.999  # two members, not one twice


def test_curves_are_the_mean_of_the_members_breslow_curves(cohort, ensemble):
    scaled = ensemble.scaler.transform(cohort)
    curves = []
    for model in ensemble.models:
        with torch.no_grad():
            risk = model(CohortDataset(scaled).batch().inputs).double()
        baseline = BreslowBaseline.fit(risk[:40], cohort.target[:40])
        curves.append(baseline.survival(risk, [0, 300, 900]).numpy())
    survival = ensemble.survival(cohort, [0, 300, 900])
    np.testing.assert_allclose(survival, np.mean(curves, axis=0), atol=1e-5)
    assert (survival[0] == 1).all()
    assert (survival[300] > survival[900]).all()


def test_new_patients_change_nothing_and_do_not_mix(cohort, ensemble):
    """Statistics are of training patients alone; a patient's risk does not depend on who is predicted beside."""
    together = ensemble.predict(cohort)
    alone = [ensemble.predict(cohort[[i]]).item() for i in (0, 1, 59)]
    np.testing.assert_allclose(together.iloc[[0, 1, 59]], alone, atol=1e-5)


def test_prediction_is_in_evaluation_mode_whatever_mode_a_model_is_in(cohort, ensemble):
    expected = ensemble.predict(cohort)
    for model in ensemble.models:
        model.train()
    try:
        np.testing.assert_array_equal(ensemble.predict(cohort), expected)
        assert all(module.training for model in ensemble.models for module in model.modules())
    finally:
        for model in ensemble.models:
            model.eval()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_models_of_half_precision_predict(cohort, ensemble, dtype):
    """NumPy lacks bfloat16, and a mean of numbers of three digits would be as coarse."""
    expected, halved = ensemble.predict(cohort), copy.deepcopy(ensemble)
    for model in halved.models:
        model.to(dtype)
    found = halved.predict(cohort)
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, atol=0.1 * expected.std())
    assert not np.array_equal(found, expected)


def test_the_spread_of_equal_risks_is_one():
    """In float32 the deviation of equal numbers is not exactly 0, and a division by it would decide the average."""
    ids = [f"p{i}" for i in range(93)]
    table = pd.DataFrame({"constant": np.full(93, 3.0)}, ids)
    times = np.random.default_rng(0).exponential(size=93)
    target = SurvivalTarget(times, np.arange(93) % 2 > 0)
    ensemble = fit_ensemble(Cohort({"table": table}, target, ids), Recipe(members=3, epochs=2))
    assert ensemble.scales == (1.0, 1.0, 1.0)
    assert np.abs(ensemble.predict(Cohort({"table": table + 1}))).max() < 10


@pytest.mark.parametrize("batch_size", [None, 10])
def test_patches_are_drawn_anew_in_every_epoch(cohort, tmp_path, batch_size):
    for patient in cohort.patients[:20]:
        torch.save(torch.randn(50, 3), tmp_path / f"{patient}.pt")
    slides = cohort[:20].with_patches(tmp_path, patient_of=str)
    read = []

    def build(cohort, recipe):
        model = build_model(cohort, recipe)

        def keep(module, arguments):
            if module.training:
                read.append(arguments[0]["slide"].features)

        model.register_forward_pre_hook(keep)
        return model

    recipe = Recipe(members=1, epochs=2, max_patches=5, batch_size=batch_size, modality_dropout=0.0)
    fit_ensemble(slides, recipe, build=build)
    first, second = torch.cat(read).split(20)
    assert first.shape == (20, 5, 3)
    assert (
        len(torch.cat([first, second]).flatten(0, 1).unique(dim=0)) > 150
    )  # of 200 drawn; 100 if the same twice


def test_batches_of_prediction_give_what_one_batch_gives(ensemble):
    many = small_cohort(150, seed=1)  # more than are predicted at once
    order = np.random.default_rng(0).permutation(150)
    np.testing.assert_allclose(ensemble.predict(many).iloc[order], ensemble.predict(many[order]), atol=1e-5)


def test_the_global_random_state_is_left_as_it_was(cohort):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    fit_ensemble(cohort[:40], Recipe(members=1, epochs=2, batch_size=16), seed=1).predict(cohort)
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)


def test_minibatches_draw_every_full_batch_once_an_epoch(cohort):
    sizes = []

    class Counting(HEALNet):
        def forward(self, inputs):
            if self.training:
                sizes.append(len(inputs["clinical"].mask))
            return super().forward(inputs)

    def build(cohort, recipe):
        return Counting({k: OmicEncoder(w, tokens=1) for k, w in cohort.widths.items()}, latent_dim=8)

    losses = []
    recipe = Recipe(members=1, epochs=3, batch_size=16)
    fit_ensemble(cohort[:40], recipe, build=build, progress=losses.append)
    assert sizes == [16, 16] * 3
    assert len(losses) == 3
    sizes.clear()
    fit_ensemble(cohort[:10], recipe, build=build)
    assert sizes == [10] * 3  # fewer patients than a batch: all of them


def test_the_recipe_shapes_the_model(cohort):
    recipe = Recipe(feature_tokens=("rna",), tokens=5, narrow=3, input_dropout=0.25, num_latents=6, depth=3)
    model = build_model(cohort, recipe)
    clinical, rna = model.encoders["clinical"], model.encoders["rna"]
    assert (clinical.tokens, clinical.input_dropout) == (5, 0.0)  # three features: all are kept
    assert (rna.tokens, rna.input_dropout) == ("features", 0.25)
    assert len(model.latents) == 6
    assert len(model.layers) == 3
    assert model.output == "cox"
    assert model.training
    scaled = Standardizer().fit(cohort).transform(cohort)
    assert not train_model(model, scaled, Recipe(epochs=1)).training


def test_training_patients_without_an_event_are_refused(cohort):
    censored = cohort[np.flatnonzero(~cohort.target.event)]
    with pytest.raises(ValueError, match="expected at least one observed event, got none in 20 training pat"):
        fit_ensemble(censored)


def test_a_modality_of_another_kind_needs_a_model_of_the_users(cohort):
    images = {f"p{i}": np.zeros((4, 4, 1)) for i in range(60)}
    target = SurvivalTarget(cohort.target.time, cohort.target.event)
    mixed = Cohort({"clinical": cohort.table("clinical"), "image": images}, target, cohort.patients)
    with pytest.raises(
        ValueError, match=r"^modality 'image': expected a table or slides; for others pass `build`"
    ):
        fit_ensemble(mixed)


def test_strata_are_compared_within_themselves_alone(cohort):
    """A stratum whose times are ten times longer moves nothing, when losses are within strata."""
    site = np.arange(60) % 2
    longer = SurvivalTarget(cohort.target.time * np.where(site, 10.0, 1.0), cohort.target.event)
    tables = {name: cohort.table(name) for name in cohort.tables}
    labels = pd.DataFrame({"site": site}, cohort.patients)
    first = Cohort(tables, cohort.target, cohort.patients, labels=labels)
    second = Cohort(tables, longer, cohort.patients, labels=labels)
    within, across = (Recipe(members=1, epochs=4, strata=strata) for strata in ("site", None))
    risks = [fit_ensemble(part, within).predict(part) for part in (first, second)]
    np.testing.assert_allclose(risks[0], risks[1], atol=1e-6)
    assert np.abs(fit_ensemble(second, across).predict(second) - risks[0]).max() > 1e-3
    with pytest.raises(
        ValueError,
        match=r"^expected baselines or time bins, .* got a model of output 'cox' with neither; after train",
    ):
        fit_ensemble(first, within).survival(first, [100])


def test_shuffled_patients_keep_their_outcomes_and_strata(cohort):
    """One shuffled batch of all patients has the loss of all patients in their order."""
    tables = {name: cohort.table(name) for name in cohort.tables}
    labels = pd.DataFrame({"site": np.arange(60) % 2}, cohort.patients)
    labeled = Cohort(tables, cohort.target, cohort.patients, labels=labels)
    recipe = Recipe(members=1, epochs=4, modality_dropout=0.0, input_dropout=0.0, strata="site")
    expected = fit_ensemble(labeled, recipe).predict(labeled)
    found = fit_ensemble(labeled, replace(recipe, batch_size=60)).predict(labeled)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("batch_size", [None, 16])
def test_training_sees_follow_up_until_the_horizon(cohort, batch_size):
    """Risks are those of a study that ended then; its curves go on, by all the events there are."""
    horizon = float(np.median(cohort.target.time[cohort.target.event])) + 1e-6
    recipe = Recipe(members=1, epochs=3, batch_size=batch_size)
    ended = cohort.with_target(cohort.target.censored_at(horizon))
    expected = fit_ensemble(ended, recipe)
    found = fit_ensemble(cohort, replace(recipe, horizon=horizon))
    np.testing.assert_array_equal(found.predict(cohort), expected.predict(cohort))
    assert np.abs(fit_ensemble(cohort, recipe).predict(cohort) - found.predict(cohort)).max() > 1e-3
    final = ended.target.time[ended.target.event].max()
    last = cohort.target.time[cohort.target.event].max()
    assert (found.survival(cohort, [last])[last] < found.survival(cohort, [horizon])[horizon]).all()
    at_end = expected.survival(cohort, [final]).to_numpy()
    np.testing.assert_array_equal(expected.survival(cohort, [horizon]), at_end)
    with pytest.warns(UserWarning, match=r"^times go from .*: curves are flat outside"):
        np.testing.assert_array_equal(expected.survival(cohort, [last]), at_end)


def test_a_horizon_in_another_unit_than_the_times_is_noticed(cohort):
    events = np.sort(cohort.target.time[cohort.target.event])
    found = rf"{len(events)} events up to the horizon of {{}}; times go up to {cohort.target.time.max():g}"
    few = float(events[2])
    with pytest.warns(UserWarning, match=f"^only 3 of {found.format(f'{few:g}')}. Is it in their unit"):
        fit_ensemble(cohort, Recipe(members=1, epochs=1, horizon=few))
    none = float(events[0]) / 2
    with pytest.raises(
        ValueError,
        match=f"^expected an event before the horizon, got 0 of {found.format(f'{none:g}')}. Is it",
    ):
        fit_ensemble(cohort, Recipe(members=1, epochs=1, horizon=none))


def test_tables_are_standardized_as_the_recipe_says(cohort):
    ensemble = fit_ensemble(cohort[:40], Recipe(members=1, epochs=2, standardize="rank", clip=1.5))
    assert ensemble.scaler.clip == 1.5
    assert ensemble.scaler.method == "rank"
    # Only the order of a column counts: risks stay what they are when long tails are added.
    tails = cohort.replace({name: np.exp(cohort.table(name)) for name in cohort.tables})
    other = fit_ensemble(tails[:40], Recipe(members=1, epochs=2, standardize="rank", clip=1.5))
    np.testing.assert_allclose(other.predict(tails), ensemble.predict(cohort), atol=1e-5)


@pytest.mark.parametrize("batch_size", [None, 16])
def test_training_hides_modalities_and_prediction_none(cohort, batch_size):
    seen = {True: [], False: []}

    def build(cohort, recipe):
        model = build_model(cohort, recipe)
        model.register_forward_pre_hook(
            lambda model, inputs: seen[model.training].append(
                sum(present(x).int() for x in inputs[0].values())
            )
        )
        return model

    fit_ensemble(
        cohort, Recipe(members=1, epochs=2, batch_size=batch_size, modality_dropout=1.0), build=build
    )
    assert torch.cat(seen[True]).unique().tolist() == [1]  # all but one of each patient's
    assert torch.cat(seen[False]).tolist() == (~cohort.missing()).sum(axis=1).tolist()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"members": 0}, r"^expected members of at least 1, got 0$"),
        ({"epochs": 0}, r"^expected epochs of at least 1, got 0$"),
        (
            {"batch_size": 1},
            r"^expected batch_size of at least 2, got 1: Cox's loss compares the patients of a batch$",
        ),
        ({"feature_tokens": "rna"}, r"^expected feature_tokens as a tuple of names, got 'rna'$"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**settings)


def test_names_that_the_cohort_does_not_have_are_refused(cohort):
    with pytest.raises(
        ValueError, match=r"^expected feature_tokens of the tables \['clinical', 'rna'\], got 'rnaa'$"
    ):
        fit_ensemble(cohort, Recipe(feature_tokens=("rnaa",)))
    with pytest.raises(ValueError, match=r"^expected strata among the labels \[\], got 'site'$"):
        fit_ensemble(cohort, Recipe(strata="site"))
    sites = Cohort(
        {"rna": cohort.table("rna"), "clinical": cohort.table("clinical")},
        cohort.target,
        cohort.patients,
        labels={"site": dict.fromkeys(cohort.patients[3:], "A")},
    )
    with pytest.raises(ValueError, match=r"^label 'site': expected strata of every patient, got 3 without$"):
        fit_ensemble(sites, Recipe(strata="site"))
    numbers = pd.Series(np.where(np.arange(60) < 4, np.nan, 1.0), cohort.patients)
    tables = {name: cohort.table(name) for name in cohort.tables}
    numbered = Cohort(tables, cohort.target, cohort.patients, labels={"site": numbers})
    with pytest.raises(ValueError, match=r"^label 'site': expected strata of every patient, got 4 without$"):
        fit_ensemble(numbered, Recipe(strata="site"))


def test_a_cohort_without_patients_has_no_risks(cohort, ensemble):
    with pytest.raises(ValueError, match=r"^expected at least one patient, got none$"):
        ensemble.predict(cohort[:0])


def test_tables_are_predicted_as_a_cohort_is(cohort, ensemble):
    tables = {name: cohort.table(name) for name in cohort.tables}
    found = ensemble.predict(tables)
    np.testing.assert_allclose(found, ensemble.predict(cohort), atol=1e-6)
    assert list(found.index) == list(cohort.patients)


def test_tables_are_no_cohort_to_train_on(cohort):
    message = "expected a Cohort, got DataFrame: Cohort({'rna': table}, target) makes one of tables"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        fit_ensemble(cohort.table("rna"))
