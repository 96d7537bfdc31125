"""Columns that are the outcome itself are found by name and by value."""

import re
import time
import warnings

import numpy as np
import pandas as pd
import pytest

from healnet.data import Cohort
from healnet.data.outcome_columns import is_outcome_name
from healnet.survival import SurvivalTarget

IDS = [f"p{i}" for i in range(40)]
RNG = np.random.default_rng(0)
DAYS = RNG.exponential(900, 40).round()
EVENT = RNG.random(40) < 0.4
TARGET = SurvivalTarget(DAYS, EVENT)


@pytest.mark.parametrize(
    "name",
    [
        "OS", "OS.time", "OS_MONTHS", "OS_STATUS", "DSS.time", "PFI", "PFS_MONTHS", "dfs days", "vital_status",
        "Vital Status", "demographic.vital_status", "days_to_death", "days_to_last_follow_up", "Overall Survival (Months)",
        "censorship", "dead", "cause_of_death",
    ],
)  # fmt: skip
def test_names_of_outcomes(name):
    assert is_outcome_name(name)


@pytest.mark.parametrize(
    "name", ["age", "is_female", "OS9", "EOS", "dose", "pfs1", "months", "status", "BOS_rnaseq"]
)
def test_names_of_findings(name):
    assert not is_outcome_name(name)


def cohort(column, n=40):
    table = pd.DataFrame({"age": RNG.normal(60, 9, n), "x": column[:n]}, index=IDS[:n])
    return Cohort({"clinical": table}, TARGET[:n], IDS[:n])


@pytest.mark.parametrize(
    "column",
    [
        DAYS,
        (DAYS / 30.44).round(1),
        -DAYS,
        np.log(DAYS + 1),
        1 / (DAYS + 1) ** 3,
        DAYS + RNG.normal(0, 10, 40),
        EVENT,
        ~EVENT,
        np.where(EVENT, 5.0, 0.0) + RNG.random(40),  # grades of the dead are higher, each another
        np.where(RNG.random(40) < 0.3, np.nan, DAYS),
        np.where(RNG.random(40) < 0.3, np.nan, EVENT),
    ],
    ids=[
        "days",
        "months",
        "fewer days",
        "log",
        "cube",
        "noise",
        "event",
        "no event",
        "scores",
        "gaps",
        "event, gaps",
    ],
)
def test_a_column_that_is_the_outcome_warns(column):
    message = (
        "modality 'clinical': column 'x' is the follow-up time or the event itself: leave it out, or the model reads the "
        "outcome"
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$") as caught:
        cohort(column)
    assert caught[0].filename == __file__
    table = pd.DataFrame({"x": np.asarray(column, float), "age": RNG.normal(60, 9, 40)}, index=IDS)
    without = Cohort({"clinical": table})
    for act in (
        lambda: without.with_target(TARGET),
        lambda: cohort(RNG.random(40)).with_modality("other", table),
    ):
        with pytest.warns(
            UserWarning, match=r"column 'x' is the follow-up time or the event itself"
        ) as caught:
            act()
        assert caught[0].filename == __file__


@pytest.mark.parametrize("column", [DAYS, ~EVENT], ids=["time", "event"])
def test_patients_without_the_table_do_not_hide_it(column):
    table = pd.DataFrame({"x": np.asarray(column, float)}, index=IDS)
    with pytest.warns(UserWarning, match=r"column 'x' is the follow-up time or the event itself"):
        Cohort({"clinical": table.iloc[10:], "age": table * 0}, TARGET, IDS)


@pytest.mark.parametrize(
    "column",
    [DAYS + RNG.normal(0, 300, 40), np.where(np.arange(40) == 3, ~EVENT, EVENT), np.full(40, 3.0)],
    ids=["noise", "all but one", "constant"],
)
def test_what_only_goes_with_the_outcome_does_not_warn(column):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cohort(column)


def test_few_patients_agree_by_chance():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cohort(EVENT, 19)
        table = pd.DataFrame({"x": np.arange(40) == 0}, index=IDS)
        Cohort({"mutations": table}, SurvivalTarget(DAYS, np.arange(40) == 0), IDS)
        few_censored = np.arange(40) < 3
        Cohort(
            {"mutations": pd.DataFrame({"x": few_censored}, index=IDS)},
            SurvivalTarget(DAYS, ~few_censored),
            IDS,
        )


def test_any_column_of_a_wide_table_is_looked_at():
    table = pd.DataFrame(RNG.normal(size=(40, 600)), index=IDS[:40]).add_prefix("g")
    table["g0"], table["g599"] = DAYS[:40] / 30.44, 1.0 - EVENT[:40]
    with pytest.warns(
        UserWarning, match=r"^modality 'rna': column 'g0', 'g599' is the follow-up time or the event itself"
    ):
        Cohort({"rna": table}, TARGET[:40], IDS[:40])


def messages(make):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make()
    return [str(warning.message) for warning in caught]


N = 120
MANY = [f"p{i}" for i in range(N)]
LONG = np.random.default_rng(1).exponential(1000, N).round() + 1
SEEN = np.random.default_rng(2).random(N) < 0.4
WHOLE = SurvivalTarget(LONG, SEEN)
READS = "leave it out, or the model reads the outcome"
FILLED = "is filled for patients with the event alone, or for those without"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.where(SEEN, LONG, np.nan), "column 'x' is the follow-up time or the event itself"),
        (np.where(SEEN, np.nan, LONG), "column 'x' is the follow-up time or the event itself"),
        (np.where(SEEN, np.random.default_rng(3).random(N), np.nan), f"column 'x' {FILLED}"),
        (np.where(SEEN, np.nan, np.random.default_rng(3).random(N)), f"column 'x' {FILLED}"),
        (np.where(SEEN, 1.0, np.nan), f"column 'x' {FILLED}"),
    ],
    ids=[
        "days to death",
        "days to last follow-up",
        "any of the dead",
        "any of the living",
        "a mark of the dead",
    ],
)
def test_gaps_tell_the_event_and_cells_that_are_there_the_time(values, message):
    table = pd.DataFrame({"age": np.random.default_rng(4).normal(60, 9, N), "x": values}, index=MANY)
    assert messages(lambda: Cohort({"clinical": table}, WHOLE, MANY)) == [
        f"modality 'clinical': {message}: {READS}"
    ]


def test_a_modality_of_the_dead_alone():
    age = pd.DataFrame({"age": np.random.default_rng(4).normal(60, 9, N)}, index=MANY)
    autopsy = pd.DataFrame({"weight": np.random.default_rng(5).normal(size=N)}, index=MANY)[SEEN]
    expected = "modality 'autopsy': patients with the event alone have it, or those without"
    assert messages(lambda: Cohort({"clinical": age, "autopsy": autopsy}, WHOLE, MANY)) == [
        f"{expected}: {READS}"
    ]
    scans = {patient: np.zeros((2, 2)) for patient in autopsy.index}
    expected = "modality 'scan': patients with the event alone have it, or those without"
    assert messages(lambda: Cohort({"clinical": age, "scan": scans}, WHOLE, MANY)) == [f"{expected}: {READS}"]


def test_the_name_of_an_outcome_counts_where_the_column_goes_with_it_less_closely():
    """Progression comes before death; a gene of such a name does not go with it."""
    rng = np.random.default_rng(6)
    progression = LONG * rng.uniform(0.3, 1, N)
    for name, warned in (("PFI.time", True), ("marker", False)):
        table = pd.DataFrame({name: progression, "EFS": rng.normal(size=N)}, index=MANY)
        found = messages(lambda table=table: Cohort({"clinical": table}, WHOLE, MANY))
        expected = [
            f"modality 'clinical': column {name!r} is the follow-up time or the event itself: {READS}"
        ]
        assert found == (expected if warned else [])


def test_a_label_among_the_inputs():
    rng = np.random.default_rng(7)
    grade, dose = rng.integers(0, 3, N), rng.normal(size=N)
    labels = pd.DataFrame({"grade": pd.Categorical(grade, categories=[0, 1, 2]), "dose": dose}, index=MANY)
    table = pd.DataFrame(
        {"a": rng.normal(size=N), "stage": 10.0 * grade, "high": grade == 2, "log": np.exp(dose)}, index=MANY
    ).astype(float)
    assert messages(lambda: Cohort({"clinical": table}, labels=labels)) == [
        "modality 'clinical': column 'stage', 'high' is label 'grade' itself: leave it out, or the model reads it",
        "modality 'clinical': column 'log' is label 'dose' itself: leave it out, or the model reads it",
    ]
    center = pd.Series(np.where(rng.random(N) < 0.5, "a", "b"), index=MANY)
    gaps = table[["a"]].where(center.eq("a"), axis=0)  # one center measures more
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Cohort({"clinical": gaps.assign(b=1.0 * rng.random(N))}, labels={"center": center})


def test_a_wide_table_takes_little_longer():
    values = np.random.default_rng(8).normal(size=(1000, 5000))
    values[::7, ::3] = np.nan
    table = pd.DataFrame(values, index=[f"p{i}" for i in range(1000)])
    target = SurvivalTarget(np.arange(1.0, 1001), np.arange(1000) % 3 == 0)
    started = time.process_time()
    without = Cohort({"rna": table})
    between = time.process_time()
    without.with_target(target)
    assert time.process_time() - between < 5 * (between - started) + 1
