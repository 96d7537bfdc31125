"""Columns that are the outcome itself are found by name and by value."""

import re
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


@pytest.mark.parametrize("column", [DAYS, (DAYS / 30.44).round(1), EVENT, ~EVENT], ids=str)
def test_a_column_that_is_the_outcome_warns(column):
    message = (
        "modality 'clinical': column 'x' is the follow-up time or the event itself: leave it out, or the model reads the "
        "outcome"
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$") as caught:
        cohort(column)
    assert caught[0].filename == __file__
    table = pd.DataFrame({"x": np.asarray(column, float)}, index=IDS)
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
    [-DAYS, DAYS + RNG.normal(0, 30, 40), np.where(np.arange(40) == 3, ~EVENT, EVENT), np.full(40, 3.0)],
    ids=["fewer days", "noise", "all but one", "constant"],
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
