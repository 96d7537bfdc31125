"""New patients in other units than those of training are told from new patients who differ."""

import warnings

import numpy as np
import pandas as pd
import pytest

from healnet.data import Cohort, Standardizer
from healnet.datasets import load_breast_cancer, load_mini_acc
from healnet.pretrained.plausible import warn_of_features, warn_of_times, warn_of_units

RNG = np.random.default_rng(0)


def counts(n, seed):
    values = np.random.default_rng(seed).lognormal(6, 1, (n, 30)).round()
    return pd.DataFrame(values, [f"p{seed}-{i}" for i in range(n)], [f"G{i}" for i in range(30)])


def transformed(method, train, new):
    scaler = Standardizer(method).fit(Cohort({"rna": train}))
    return scaler.transform(Cohort({"rna": new}))


@pytest.mark.parametrize("method", ["mean", "median", "rank"])
@pytest.mark.parametrize(
    ("seen", "given"),
    [
        (lambda t: t, np.log2),
        (np.log2, lambda t: t),
        (lambda t: t, lambda t: (t - t.mean()) / t.std()),
        (np.log2, lambda t: (t - t.mean()) / t.std()),
        (lambda t: t, lambda t: t * 1000),
    ],
    ids=["logarithms", "counts", "z-scores of counts", "z-scores of logarithms", "thousandfold"],
)
def test_other_units_warn(method, seen, given):
    with pytest.warns(
        UserWarning, match=r"^modality 'rna': .*: are they in other units, or transformed otherwise"
    ):
        warn_of_units(transformed(method, seen(counts(60, 0)), given(counts(12, 1))))


def test_the_message_has_the_figure():
    train = pd.DataFrame(np.tile([[0.0], [2.0]], 30), ["a", "b"])
    new = pd.DataFrame(np.full((1, 30), 9.0), ["c"])
    message = r"^modality 'rna': half of the values are 8 or more standard deviations from the mean of training: are"
    with pytest.warns(UserWarning, match=message):
        warn_of_units(transformed("mean", train, new))
    new = pd.DataFrame(1 + 0.03 * np.tile([[-1.0], [1.0]], (6, 30)), [f"p{i}" for i in range(12)])
    with pytest.warns(
        UserWarning, match=r"^modality 'rna': values differ between patients 0\.03 times as much as in"
    ):
        warn_of_units(transformed("mean", train, new))


@pytest.mark.parametrize("method", ["mean", "median", "rank"])
@pytest.mark.parametrize("load", [load_mini_acc, load_breast_cancer])
def test_real_patients_do_not_warn(method, load):
    """Also few, also with mutations that none of them has."""
    cohort = load()
    for train, test in cohort.folds(5, seed=0):
        scaler = Standardizer(method).fit(cohort[train])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for part in (test, test[:10], test[:1]):
                warn_of_units(scaler.transform(cohort[part]))


def test_another_hospital_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_units(transformed("mean", np.log2(counts(60, 0)), np.log2(counts(20, 1) * 2)))


@pytest.mark.parametrize("others", [0, 6])
def test_few_patients_may_be_farther(others):
    """A single tumor is often far from the mean; patients without the table do not make its patients more."""
    ids = [f"p{i}" for i in range(10 + others)]
    everyone = pd.DataFrame({"age": np.zeros(len(ids))}, ids)

    def cohort(n):
        return Cohort({"rna": pd.DataFrame(3.0, ids[:n], list("abcdef")), "clinical": everyone})

    with pytest.warns(UserWarning, match=r"^modality 'rna': half of the values are 3 or more standard dev"):
        warn_of_units(cohort(10))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_units(cohort(9))


@pytest.mark.parametrize("times", [[1.0, 5.0], [300.0, 30000.0]])
def test_times_outside_the_events_warn(times):
    message = f"^times go from {times[0]:g} to {times[1]:g}, and training saw events from 12 to 4673: curves are flat"
    with pytest.warns(UserWarning, match=message):
        warn_of_times(np.array(times), 12.0, 4673.0)


@pytest.mark.parametrize("times", [[], [365.0], [1.0, 365.0], [4673.0], [365.0, 20000.0]])
def test_times_within_do_not_warn(times):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_times(np.array(times), 12.0, 4673.0)


@pytest.fixture
def clinic():
    """A scaler of 200 patients: age in years, a rare mutation, and a feature of one value."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"age": rng.normal(60, 12, 200), "KRAS": np.arange(200.0) == 0, "site": 1.0}).astype(
        float
    )
    training = Cohort({"clinical": table.set_axis(map(str, table.index))})
    return lambda method, clip: Standardizer(method, clip).fit(training)


@pytest.mark.parametrize(
    ("method", "clip"), [("mean", None), ("mean", 5.0), ("median", None), ("rank", None)]
)
@pytest.mark.parametrize("n", [1, 30])
def test_a_feature_in_another_unit_is_named_whatever_the_scaling_does_to_it(clinic, method, clip, n):
    """One feature of three: as a whole the table looks as it should."""
    scaler = clinic(method, clip)
    rng = np.random.default_rng(1)
    table = pd.DataFrame(
        {"age": rng.normal(60, 12, n), "KRAS": 1.0, "site": 1.0}, [f"p{i}" for i in range(n)]
    )
    warn_of_features(Cohort({"clinical": table}), ["clinical"], scaler)  # warnings are errors
    days = Cohort({"clinical": table.assign(age=table["age"] * 365.25)})
    with pytest.warns(
        UserWarning,
        match=r"^modality 'clinical': values of age \(median 2.*e\+04, [56].* in training\) are far from those of training: "
        r"are they in other units, or coded otherwise\?$",
    ):
        warn_of_features(days, ["clinical"], scaler)
    coded = Cohort({"clinical": table.assign(site=1e6)})
    with pytest.warns(
        UserWarning, match=r"^modality 'clinical': values of site \(median 1e\+06, 1 in training\) are"
    ):
        warn_of_features(coded, ["clinical"], scaler)
