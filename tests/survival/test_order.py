"""Patients, folds and times that are named in another order than those they are paired with are refused."""

import re

import numpy as np
import pandas as pd
import pytest

from healnet.survival import (
    BreslowBaseline,
    SurvivalTarget,
    TimeBins,
    compare,
    compare_folds,
    concordance,
    evaluate,
    logrank_p,
)
from healnet.survival.plots import plot_survival_curves

TIME = np.array([3.0, 1.0, 4.0, 1.5, 5.0, 9.0])
EVENT = np.array([True, True, False, True, False, True])
TARGET = SurvivalTarget(TIME, EVENT)
RISK = np.array([0.3, 0.9, 0.1, 0.5, 0.2, 0.8])


def test_risks_that_know_their_patients_must_be_in_the_order_of_outcomes_that_do():
    ids = [f"p{i}" for i in range(6)]
    known = SurvivalTarget.from_frame(pd.DataFrame({"t": TIME, "e": EVENT}, index=ids), "t", "e")
    risk = pd.Series(RISK, index=ids)
    calls = (
        (concordance, "risk"),
        (lambda r, t: evaluate(r, t, t, times=[2, 4]), "risk"),
        (lambda r, t: compare(RISK, r, t, bootstrap=2), "risk_b"),
    )
    for call, name in calls:
        for given in (risk, risk.to_frame(), risk.set_axis(range(6)), risk.add_prefix("s"), RISK):
            call(given, known)
        call(risk[::-1].reset_index(drop=True), known)
        call(risk[::-1], TARGET)  # which knows no patients
        message = (
            f"expected {name} in the order of the target's patients, got 'p5' at position 0 where the target has 'p0'; "
            "reindex it with target.patients"
        )
        for given in (risk[::-1], risk[::-1].to_frame()):
            with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
                call(given, known)
    assert concordance(risk[::-1].reindex(known.patients), known) == concordance(RISK, TARGET)


def test_a_risk_by_numbers_of_patients_in_another_order_is_refused():
    ids = [41, 7, 23]
    target = SurvivalTarget.from_frame(pd.DataFrame({"OS.time": [1, 2, 3], "OS": [1, 1, 1]}, index=ids))
    risk = pd.Series([3.0, 2.0, 1.0], index=ids)
    assert concordance(risk, target) == 1
    message = (
        "expected risk in the order of the target's patients, got 7 at position 0 where the target has 41; "
        "reindex it with target.patients"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        concordance(risk.sort_index(), target)
    assert concordance(risk.sort_index().reindex(target.patients), target) == 1
    assert concordance(risk.reset_index(drop=True), target) == 1  # numbers of rows


def test_what_names_its_patients_in_another_order_is_refused_wherever_it_meets_outcomes():
    ids = [f"p{i}" for i in range(6)]
    known = SurvivalTarget.from_frame(pd.DataFrame({"t": TIME, "e": EVENT}, index=ids), "t", "e")
    column = pd.Series(np.linspace(0.1, 0.9, 6), ids)
    arms = pd.Series(list("abbaba"), ids)
    curves = pd.DataFrame({3.0: column, 5.0: column / 2})
    calls = {
        "groups": [lambda at: logrank_p(arms[at], known)],
        "log_hazard": [lambda at: BreslowBaseline.fit(column[at], known)],
        "survival": [lambda at: plot_survival_curves(curves.loc[at], [3.0, 5.0], target=known)],
    }
    for name, ways in calls.items():
        for call in ways:
            call(ids)
            with pytest.raises(
                ValueError,
                match=f"^expected {name} in the order of the target's patients, got 'p5' at position 0",
            ):
                call(ids[::-1])
    message = r"^expected survival at the times \[5\.0, 3\.0\], got columns named \[3\.0, 5\.0\]$"
    with pytest.raises(ValueError, match=message):
        plot_survival_curves(curves, [5.0, 3.0])


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (SurvivalTarget, "time and event"),
        (SurvivalTarget.from_censorship, "time and censorship"),
        (lambda time, event: TimeBins.fit(time, event, 2), "time and event"),
        (lambda a, b: compare(a, b, SurvivalTarget(TIME, EVENT), bootstrap=2), "risk_a and risk_b"),
        (lambda a, b: compare_folds(a, b, 0.2), "scores_a and scores_b"),
    ],
)
def test_two_series_of_the_same_in_different_orders_are_refused(call, names):
    first, second = pd.Series(TIME, index=list("abcdef")), pd.Series(EVENT, index=list("abcdef"))
    expected = call(first.to_numpy(), second.to_numpy())
    for given in (second, second.set_axis(range(6)), second.to_numpy()):
        assert call(first, given) == expected
    message = (
        f"expected {names} in one order, got 'a' and 'f' at position 0 of their indices; "
        "reindex one with the other's index"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call(first, second[::-1])
