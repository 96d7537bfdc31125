"""Rules that every function keeps: (n, 1) is (n,), outcomes and patients' order must fit, a compiled graph is whole."""

import re

import numpy as np
import pandas as pd
import pytest
import torch

from healnet.survival import (
    BreslowBaseline,
    CoxAccumulator,
    SurvivalTarget,
    TimeBins,
    balanced_event_sampler,
    calibration_groups,
    compare,
    compare_folds,
    concordance,
    cox_nll,
    d_calibration,
    discrete_cross_entropy,
    discrete_nll,
    evaluate,
    logrank_p,
    ranking_loss,
    weibull_nll,
)
from healnet.survival.plots import plot_survival_curves

TIME = np.array([3.0, 1.0, 4.0, 1.5, 5.0, 9.0])
EVENT = np.array([True, True, False, True, False, True])
TARGET = SurvivalTarget(TIME, EVENT)
RISK = np.array([0.3, 0.9, 0.1, 0.5, 0.2, 0.8])
LOGITS = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 0, 1, 2])
LOSSES = {
    "cox": lambda x, time, event: cox_nll(x[:, :1], time, event),
    "discrete": lambda x, time, event: discrete_nll(x, time, event),
    "competing": lambda x, time, event: discrete_nll(x.view(6, 1, 3), time, event),
    "cross-entropy": lambda x, time, event: discrete_cross_entropy(x, time, event),
    "weibull": lambda x, time, event: weibull_nll(x[:, :2], time, event),
    "ranking": lambda x, time, event: ranking_loss(x[:, 0], time, event),
}


@pytest.mark.parametrize(
    "use",
    [
        lambda shape: concordance(RISK.reshape(shape), TARGET),
        lambda shape: compare(RISK.reshape(shape), RISK.reshape(shape)[::-1], TARGET, bootstrap=5),
        lambda shape: evaluate(RISK.reshape(shape), TARGET, TARGET)["value"].tolist(),
        lambda shape: logrank_p((RISK > 0.4).reshape(shape), TARGET),
        lambda shape: logrank_p(torch.tensor(RISK > 0.4).reshape(shape), TARGET),
        lambda shape: d_calibration(RISK.reshape(shape), TARGET).counts.tolist(),
        lambda shape: calibration_groups(RISK.reshape(shape), TARGET, 3.0, 2).predicted.tolist(),
        lambda shape: BreslowBaseline.fit(RISK.reshape(shape), TARGET).cumulative_hazard.tolist(),
        lambda shape: SurvivalTarget(TIME.reshape(shape), EVENT.reshape(shape)),
        lambda shape: SurvivalTarget.from_censorship(TIME.reshape(shape), ~EVENT.reshape(shape)),
        lambda shape: TimeBins.fit(TIME.reshape(shape), EVENT.reshape(shape), num_bins=2),
        lambda shape: [len(b) for b in balanced_event_sampler(EVENT.reshape(shape), 3)],
        *(
            lambda shape, loss=loss, label=label: loss(
                LOGITS,
                (Y if label in ("discrete", "competing", "cross-entropy") else torch.tensor(TIME)).reshape(
                    shape
                ),
                torch.tensor(EVENT).int().reshape(shape),
            ).item()
            for label, loss in LOSSES.items()
        ),
    ],
)
def test_one_value_per_patient_may_be_a_column(use):
    result = use((6, 1))
    assert result == use((6,))
    assert not np.isnan(np.asarray(result, dtype=float) if isinstance(result, (float, list)) else 0).all()


@pytest.mark.parametrize("missing", ["time", "event"])
@pytest.mark.parametrize("label", LOSSES)
def test_a_batch_without_outcomes_is_refused_by_name(label, missing):
    given = {
        "time": Y if label in ("discrete", "competing", "cross-entropy") else TIME,
        "event": EVENT.astype(int),
    }
    name = "y" if missing == "time" and label in ("discrete", "competing", "cross-entropy") else missing
    message = (
        rf"^expected {name}, one value per patient, got None: a survival loss needs patients with outcomes$"
    )
    with pytest.raises(ValueError, match=message):
        LOSSES[label](LOGITS, **(given | {missing: None}))
    if label == "cox":
        with pytest.raises(ValueError, match=message):
            CoxAccumulator().add(LOGITS[:, 0], **(given | {missing: None}))


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


@pytest.mark.parametrize("label", LOSSES)
def test_a_compiled_graph_is_whole_and_still_checks_labels(label):
    loss = LOSSES[label]
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    time = Y if label in ("discrete", "competing", "cross-entropy") else torch.tensor(TIME)
    event = torch.tensor(EVENT).int()
    x = LOGITS.clone().requires_grad_()
    found, expected = compiled(x, time, event), loss(x, time, event)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, x)[0] for value in (found, expected)))
    with pytest.raises(ValueError, match=r"^expected event .* got 3 at position 0 \(4 of 6 are wrong\)"):
        compiled(x, time, 3 * event)


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
