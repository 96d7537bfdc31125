"""Metrics against the recorded numbers, scikit-survival called directly, and cohorts on which they are undefined."""

import itertools
import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import KaplanMeierFitter
from lifelines.datasets import load_rossi
from lifelines.utils import concordance_index
from sksurv.datasets import load_gbsg2
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.metrics import cumulative_dynamic_auc
from sksurv.preprocessing import OneHotEncoder

from healnet.survival import (
    BreslowBaseline,
    SurvivalTarget,
    TimeBins,
    calibration_groups,
    compare,
    concordance,
    d_calibration,
    evaluate,
    kaplan_meier,
    survival_function,
)

REFERENCE = json.loads((Path(__file__).parents[2] / "reference" / "survival.json").read_text())


def simulated(seed, n=120):
    rng = np.random.default_rng(seed)
    risk = rng.normal(size=n)
    time, limit = rng.exponential(np.exp(-risk)), rng.exponential(2, n)
    return risk, SurvivalTarget(np.minimum(time, limit), time <= limit)


def values(table, metric):
    return table.loc[table["metric"] == metric, "value"].tolist()


def test_recorded_gbsg2():
    x, y = load_gbsg2()
    x["tgrade"] = x["tgrade"].map({"I": 0, "II": 1, "III": 2}).astype(float)
    x = OneHotEncoder().fit_transform(x)
    model = CoxPHSurvivalAnalysis(ties="efron").fit(x, y)
    times = 365.0 * np.arange(1, 6)
    survival = np.stack([curve(times) for curve in model.predict_survival_function(x)])
    target = SurvivalTarget(y["time"], y["cens"])
    recorded = REFERENCE["gbsg2"]
    table = evaluate(model.predict(x), target, target, survival=survival, times=times, tau=1825)
    assert values(table, "harrell_c") == pytest.approx([recorded["harrell_c"]], abs=1e-6)
    assert values(table, "auc") == pytest.approx(recorded["cumulative_dynamic_auc"], abs=1e-6)
    assert values(table, "brier") == pytest.approx(recorded["brier"], abs=1e-6)
    assert values(table, "integrated_brier") == pytest.approx([recorded["integrated_brier_score"]], abs=1e-6)
    assert values(table, "uno_c") == pytest.approx([recorded["uno_c_tau_1825"]], abs=1e-6)
    assert (table["note"] == "").all()


def test_recorded_uno():
    rossi, recorded = load_rossi(), REFERENCE["rossi"]
    coefficients = recorded["efron_coefficients"]
    risk = rossi[list(coefficients)].to_numpy() @ np.array(list(coefficients.values()))
    target = SurvivalTarget(rossi["week"], rossi["arrest"])
    assert concordance(risk, target) == pytest.approx(recorded["harrell_c"], abs=1e-6)
    table = evaluate(risk, target, target, tau=30.0)
    row = table[table["metric"] == "uno_c"].iloc[0]
    assert row["time"] == 30
    assert row["value"] == pytest.approx(recorded["uno_c_tau_30"], abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 3)), min_size=2, max_size=25))
def test_lifelines_concordance_with_ties(rows):
    time, event, risk = (np.array(column) for column in zip(*rows, strict=True))
    target = SurvivalTarget.unchecked(time.astype(float), event)
    first = target.time[event].min() if event.any() else np.inf
    if not ((time > first) | ((time == first) & ~event)).any():
        with pytest.warns(UserWarning, match=r"^Harrell's C is undefined: no "):
            assert math.isnan(concordance(risk, target))
    else:
        ours = concordance(risk, target)
        assert ours == concordance(torch.tensor(risk).unsqueeze(1), target)
        if len(set(time)) == len(time):  # lifelines treats tied times in another way
            assert ours == pytest.approx(concordance_index(time, -risk, event), abs=1e-12)


def test_concordance_by_hand():
    assert concordance([3.0, 1.0, 2.0], SurvivalTarget([1, 3, 2], [True, True, False])) == 1
    assert concordance([1.0, 2.0, 3.0], SurvivalTarget([1, 2, 3], [True, True, True])) == 0
    assert concordance([1.0, 1.0, 0.0], SurvivalTarget([1, 2, 3], [True, False, False])) == 0.75
    censored_as_late = SurvivalTarget([1, 1], [True, False])  # followed longer than the one who died
    assert concordance([2.0, 1.0], censored_as_late) == 1


def test_small_risks_are_ranked_like_large_ones():
    """For scikit-survival risks within 1e-8 are tied; probabilities of a rare event may all lie within."""
    risk, target = simulated(2)
    tiny = 1e-10 * risk / np.ptp(risk)
    assert concordance(tiny, target) == concordance(risk, target) > 0.6
    expected = evaluate(risk, target, target, times=[0.3, 0.8])
    pd.testing.assert_frame_equal(evaluate(tiny, target, target, times=[0.3, 0.8]), expected)
    other = np.random.default_rng(0).normal(size=len(risk))
    assert compare(tiny, other, target, bootstrap=9) == compare(risk, other, target, bootstrap=9)
    # Equal patients, whose risks differ by the rounding of float32, stay tied.
    target, equal = SurvivalTarget([1, 2, 3], [True, True, False]), np.array([0.05, 0.05 + 4e-9, 0.02])
    assert concordance(equal, target) == concordance(1e-9 * equal, target) == 2.5 / 3
    target, constant = simulated(2)[1], np.full(len(risk), 1e-12)
    assert concordance(constant, target) == concordance(constant * (1 + 1e-15 * risk), target) == 0.5


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ([False, False], "no events"),
        ([False, True], "no comparable pair: no patient was followed beyond the first event"),
    ],
)
def test_undefined_concordance_is_nan_and_says_why(event, reason):
    with pytest.warns(UserWarning, match=f"^Harrell's C is undefined: {reason}$"):
        assert math.isnan(concordance([1.0, 2.0], SurvivalTarget([1, 2], event)))


@pytest.mark.parametrize(
    ("risk", "message"),
    [
        ([1.0], "expected risk of shape (2,) or (2, 1), one value per patient, got (1,)"),
        ([1.0, np.inf], "expected risk to be finite, got inf at position 1 (1 of 2 are wrong)"),
    ],
)
def test_concordance_refuses(risk, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011, the whole message is compared
        concordance(risk, SurvivalTarget([1, 2], [True, True]))
    assert str(error.value) == message


def weighted_auc(risk, target, time):
    """The share of pairs of a case, weighted by 1 / G at its time, and a control in which the case has the larger risk."""
    leaving = KaplanMeierFitter().fit(target.time, ~target.event)
    cases, controls = np.flatnonzero(target.event & (target.time <= time)), target.time > time
    won = [(risk[i] > risk[controls]).mean() + (risk[i] == risk[controls]).mean() / 2 for i in cases]
    return np.average(won, weights=1 / leaving.survival_function_at_times(target.time[cases]).to_numpy())


def test_auc_where_the_last_times_of_event_and_censoring_are_one():
    """At week 52 some are arrested and all others leave, as where a study ends: G(52) = 0, which no earlier AUC needs."""
    rossi = load_rossi()
    risk, target = rossi["prio"].to_numpy(), SurvivalTarget(rossi["week"], rossi["arrest"])
    assert target.event[target.time == 52].any()
    times = [13.0, 26.0, 51.0]
    table = evaluate(risk, target, target, times=times)
    expected = [weighted_auc(risk, target, time) for time in times]
    assert values(table, "auc") == pytest.approx(expected, abs=1e-12)
    falls = -np.diff(kaplan_meier(target).at([0.0, *times]))
    assert values(table, "mean_auc") == pytest.approx([np.average(expected, weights=falls)], abs=1e-12)
    assert (table["note"] == "").all()


def test_a_table_of_curves_in_another_order_is_refused():
    frame = pd.DataFrame({"OS.time": [1, 2, 3, 4], "OS": [1, 1, 0, 1]}, index=["a", "b", "c", "d"])
    target = SurvivalTarget.from_frame(frame)
    curves = pd.DataFrame([[0.9, 0.2], [0.8, 0.5], [0.9, 0.9], [1.0, 0.7]], frame.index, [1.5, 2.5])

    def brier(given):
        return values(evaluate(None, target, target, survival=given, times=[1.5, 2.5]), "brier")

    expected = brier(curves.to_numpy())
    assert brier(curves) == brier(curves.set_axis([0, 1], axis=1)) == expected
    message = "expected survival in the order of the target's patients, got 'd' at position 0 where the target has 'a'"
    for call in (
        lambda given: brier(given[::-1]),
        lambda given: d_calibration(given[1.5][::-1], target),
        lambda given: calibration_groups(given[1.5][::-1], target, 1.5),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}; reindex it with target.patients$"):
            call(curves)
    message = "expected survival at the times [1.5, 2.5], got columns named [2.5, 1.5]"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        brier(curves[[2.5, 1.5]])


def test_mean_auc_is_scikit_survivals():
    risk, target = simulated(1)
    times = np.array([0.3, 0.6, 1.0])
    auc, mean = cumulative_dynamic_auc(target.to_structured(), target.to_structured(), risk, times)
    table = evaluate(risk, target, target, times=times)
    assert values(table, "auc") == pytest.approx(auc)
    assert values(table, "mean_auc") == pytest.approx([mean])


def test_patients_censored_at_exactly_t_are_neither_dead_nor_followed_beyond():
    train = SurvivalTarget(
        [1, 2, 3, 4], [True, False, True, True]
    )  # of 3 at risk one is censored at 2: G(2) = 2/3
    test = SurvivalTarget([1, 2, 2, 3], [True, True, False, False])
    survival = np.array([[0.5], [0.3], [0.9], [0.8]])
    risk = [1.0, 2.0, 9.0, 0.0]
    table = evaluate(risk, test, train, survival=survival, times=[2.0])
    # Dead at 1 with G(1) = 1, dead at 2 with G(2), censored at 2 with no weight, followed beyond with G(2); four patients.
    assert values(table, "brier") == pytest.approx([(0.5**2 + 1.5 * 0.3**2 + 0 + 1.5 * 0.2**2) / 4])
    assert values(table, "auc") == [
        1
    ]  # as a control the patient censored at 2 would be ranked above both deaths
    at_3 = SurvivalTarget([1, 2, 3, 3], [True, True, False, False])
    assert values(evaluate(risk, at_3, train, times=[2.0]), "auc") == [0.5]
    only = SurvivalTarget([2, 3, 3], [True, False, False])  # the one event is at exactly t
    assert values(evaluate([1.0, 0.0, 2.0], only, train, times=[2.0]), "auc") == [0.5]


def test_patients_followed_longer_than_the_training_cohort():
    """scikit-survival refuses them; what happens after the training follow-up changes no earlier value."""
    risk, target = simulated(2)
    train = SurvivalTarget(np.minimum(target.time, 0.9), target.event & (target.time <= 0.9))
    survival = np.exp(-np.outer(np.exp(risk), [0.3, 0.6]))
    table = evaluate(risk, target, train, survival=survival, times=[0.3, 0.6])
    same = evaluate(risk, train, train, survival=survival, times=[0.3, 0.6])
    for metric in ("auc", "brier", "integrated_brier", "uno_c"):
        assert values(table, metric) == pytest.approx(values(same, metric))
    assert table.loc[table["metric"] == "uno_c", "time"].item() == train.time.max()
    assert (table["note"] == "").all()


def test_default_times_are_quartiles_of_the_events():
    risk, target = simulated(3)
    table = evaluate(risk, target, target)
    expected = np.quantile(target.time[target.event], [0.25, 0.5, 0.75])
    assert table.loc[table["metric"] == "auc", "time"].tolist() == expected.tolist()


def test_a_curve_and_its_values_agree():
    risk, target = simulated(4)
    bins = TimeBins.fit(target.time, target.event, num_bins=5)
    logits = torch.tensor(risk[:, None] + np.linspace(-2, 0, 5), dtype=torch.float64)
    curve = survival_function(logits, bins)
    times = bins.edges[1:-1]
    from_curve = evaluate(None, target, target, survival=curve, times=times)
    from_array = evaluate(None, target, target, survival=curve.at(times), times=times)
    same = (
        from_curve["metric"] != "d_calibration_p"
    )  # the array knows nothing between its last time and the curve's
    pd.testing.assert_frame_equal(from_curve[same], from_array[same])
    grid = bins.edges[1:]
    whole = evaluate(None, target, target, survival=curve.at(grid), times=grid)
    own = curve.at(target.time[:, None])[:, 0]
    expected = d_calibration(own, target).p_value
    assert values(from_curve, "d_calibration_p") == pytest.approx([expected])
    assert values(whole, "d_calibration_p") == pytest.approx([expected])
    error = calibration_groups(curve.at([times[0]])[:, 0], target, times[0], 10).error
    assert values(from_curve, "calibration_error")[0] == pytest.approx(error)


def test_a_death_at_the_last_edge_is_a_death_in_float32_too():
    """0.7 in float32 is below 0.7 in float64; as censored, the patients would be spread over the deciles."""
    target = SurvivalTarget(np.full(60, 0.7), np.arange(60) < 30)
    bins = TimeBins([0, 0.3, 0.7])
    p = [
        values(
            evaluate(None, target, target, survival=survival_function(torch.zeros(60, 2, dtype=dtype), bins)),
            "d_calibration_p",
        )
        for dtype in (torch.float32, torch.float64)
    ]
    assert p[0] == pytest.approx(p[1], rel=1e-9, abs=0)


def test_tensors_of_a_graph_and_of_half_precision_are_read():
    _, target = simulated(9, n=20)
    risk = torch.arange(20.0, requires_grad=True)
    expected = concordance(np.arange(20), target)
    assert concordance(risk, target) == concordance(risk.bfloat16(), target) == expected
    assert values(evaluate(risk, target, target), "harrell_c") == [expected]


def test_beyond_the_last_known_time_patients_are_censored_there():
    """A curve known until 1 says of a death at 2 only that S was below S(1)."""
    target = SurvivalTarget(np.full(60, 2.0), np.arange(60) < 30)
    survival = np.full((60, 1), 0.95)
    expected = d_calibration(
        np.full(60, 0.95), SurvivalTarget.unchecked(target.time, np.zeros(60, dtype=bool))
    ).p_value
    assert expected > 0.9  # as deaths at S = 0.95 they would all lie in the last decile
    table = evaluate(None, target, target, survival=survival, times=[1.0])
    assert values(table, "d_calibration_p") == pytest.approx([expected])
    curve = survival_function(torch.full((60, 1), -math.log(19)), TimeBins([0, 1]))
    assert values(evaluate(None, target, target, survival=curve), "d_calibration_p") == pytest.approx(
        [expected]
    )


def test_undefined_values_say_why():
    train = SurvivalTarget([1, 2, 3, 4, 5], [True, False, True, True, False])
    test = SurvivalTarget([2, 3, 6], [False, True, False])
    survival = np.full((3, 4), 0.5)
    table = evaluate([1.0, 3.0, 2.0], test, train, survival=survival, times=[1.0, 2.0, 4.0, 7.0])
    notes = {(row.metric, row.time): row.note for row in table.itertuples() if math.isnan(row.value)}
    assert notes.pop(("auc", 1.0)) == "no events by 1"
    assert notes.pop(("auc", 2.0)) == "no events by 2"
    assert notes.pop(("auc", 7.0)) == "no patient was followed beyond 7"
    assert notes.pop(("brier", 1.0)) == "1 is outside the follow-up [2, 5) of the patients"
    assert notes.pop(("brier", 7.0)) == "7 is beyond the last training time 5"
    assert notes.pop(("calibration_error", 7.0)) == "a group of patients was not followed until 7"
    assert sorted(notes.values()) == [
        "1 is outside the follow-up [2, 5) of the patients",
        "3 patients are fewer than 5 per decile: no chi-squared distribution",
        "no events by 1",
    ]
    assert (table["note"] == "").sum() == len(table) - 9
    assert table["value"].notna().sum() == len(table) - 9


@pytest.mark.parametrize("event", [[False, False, False], [False, False, True]])
def test_nothing_is_zero_where_it_is_undefined(event):
    train = SurvivalTarget([1, 2, 3, 4], [True, False, True, False])
    table = evaluate([1.0, 2.0, 3.0], SurvivalTarget([1, 2, 3], event), train, times=[2.5])
    assert table["value"].isna().all()
    assert (table["note"] != "").all()


def test_no_patients_at_all():
    train = SurvivalTarget([1, 2, 3, 4], [True, False, True, False])
    nobody = SurvivalTarget([], [])
    for fitted in (train, nobody):
        table = evaluate([], nobody, fitted, survival=np.zeros((0, 1)), times=[2.0], bootstrap=3)
        assert table["value"].isna().all()
        assert (table["note"] != "").all()
    table = evaluate([4.0, 3.0, 2.0, 1.0], train, nobody, times=[2.0])
    assert values(table, "harrell_c") == [1.0]
    assert table.loc[table["metric"] == "uno_c", "note"].item() == (
        "no training patients to estimate the censoring from"
    )


def test_the_last_censored_patient_does_not_leave_uno_undefined():
    risk, target = simulated(5)
    assert not target.event[target.time.argmax()]
    assert 0.5 < values(evaluate(risk, target, target), "uno_c")[0] < 1


def test_bootstrap_intervals_hold_the_value_and_repeat_with_the_seed():
    risk, target = simulated(6, n=60)
    survival = np.exp(-np.outer(np.exp(risk), [0.2, 0.4]))
    options = {"times": [0.2, 0.4], "bootstrap": 30}
    table = evaluate(risk, target, target, survival=survival, **options)
    inner = table[table["metric"] != "d_calibration_p"]
    assert (inner["low"] < inner["value"]).all()
    wide = ~inner["metric"].isin(["calibration_error"])  # an absolute error is biased upwards by resampling
    assert (inner["high"] > inner["value"])[wide].all()
    pd.testing.assert_frame_equal(table, evaluate(risk, target, target, survival=survival, **options))
    other = evaluate(risk, target, target, survival=survival, **options, seed=1)
    assert (other["low"] != table["low"]).any()
    narrow = evaluate(risk, target, target, survival=survival, **options, confidence=0.5)
    assert (narrow["high"] <= table["high"]).all()
    assert narrow.loc[0, "high"] < table.loc[0, "high"]


def test_the_bootstrap_agrees_with_every_possible_draw():
    """Of four patients there are 4^4 = 256; in some C is undefined, which the note counts."""
    target = SurvivalTarget([1, 2, 3, 4], [True, False, True, False])
    risk = np.array([2.0, 3.0, 4.0, 1.0])
    exact = []
    for draw in map(list, itertools.product(range(4), repeat=4)):
        time, event, drawn = target.time[draw], target.event[draw], risk[draw]
        won = [
            drawn[i] > drawn[j] for i, j in np.ndindex(4, 4) if event[i] and time[j] > time[i]
        ]  # no ties between different patients
        exact.append(np.mean(won) if won else np.nan)
    known = np.array(exact)[~np.isnan(exact)]
    for confidence in (0.8, 0.2):
        row = evaluate(risk, target, target, bootstrap=200, confidence=confidence).iloc[0]
        assert row["value"] == 0.5
        for limit, share in ((row["low"], (1 - confidence) / 2), (row["high"], (1 + confidence) / 2)):
            assert (known < limit - 1e-9).mean() - 0.1 < share < (known <= limit + 1e-9).mean() + 0.1
    undefined = re.fullmatch(r"undefined in (\d+) of 200 draws", row["note"])
    assert int(undefined[1]) / 200 == pytest.approx(
        1 - len(known) / 256, abs=0.07
    )  # three standard deviations


GOOD = simulated(8, n=20)
REFUSED = [
    (
        {"risk": None, "survival": BreslowBaseline([1.0], [0.5])},
        "expected risk, the log hazards of the patients, beside a BreslowBaseline, got None",
    ),
    ({"risk": None}, "expected risk, survival or both, got neither"),
    ({"bootstrap": -1}, "expected bootstrap >= 0, got -1"),
    ({"survival": np.ones((20, 2))}, "expected times, one for each column of survival, got None"),
    (
        {"survival": np.ones((20, 2)), "times": [1.0]},
        "expected survival of shape (20, 1), patients by times, got (20, 2)",
    ),
    (
        {"survival": np.full((20, 1), 2.0), "times": [1.0]},
        "expected survival to hold probabilities in [0, 1], got 2 at position 0 (20 of 20 are wrong)",
    ),
    ({"times": [2.0, 1.0]}, "expected times that are >= 0 and increase, got [2.0, 1.0]"),
    ({"times": [-1.0]}, "expected times that are >= 0 and increase, got [-1.0]"),
    ({"risk": np.ones(3)}, "expected risk of shape (20,) or (20, 1), one value per patient, got (3,)"),
    ({"tau": 0.0}, "expected tau > 0, got 0.0"),
    ({"confidence": 95}, "expected confidence in (0, 1), got 95"),
    (
        {"survival": survival_function(torch.zeros(3, 1), TimeBins([0, 1]))},
        "expected survival of 20 patients, as the target, got 3",
    ),
]


@pytest.mark.parametrize(("wrong", "message"), REFUSED)
def test_refused(wrong, message):
    risk, target = GOOD
    with pytest.raises(ValueError) as error:  # noqa: PT011, the whole message is compared
        evaluate(**({"risk": risk, "target": target, "train_target": target} | wrong))
    assert str(error.value) == message


def test_a_cox_model_is_evaluated_in_one_call_with_its_baseline():
    """As from its curves written out on the grid and at each patient's own time."""
    risk, target = simulated(11)
    seen_risk, train = simulated(12)
    baseline = BreslowBaseline.fit(torch.tensor(seen_risk), train)
    times = np.quantile(target.time, [0.1, 0.3, 0.5, 0.7])
    table = evaluate(risk, target, train, survival=baseline, times=times)
    hazard = np.array([baseline.cumulative_hazard[baseline.times <= t][-1] for t in times])
    curves = np.exp(-np.outer(np.exp(risk - seen_risk.mean()), hazard))
    written_out = evaluate(risk, target, train, survival=curves, times=times)
    exact = table["metric"] != "d_calibration_p"  # the grid knows the patients' own times only roughly
    pd.testing.assert_frame_equal(table[exact], written_out[exact])
    own = [
        np.exp(-np.exp(r - seen_risk.mean()) * baseline.cumulative_hazard[baseline.times <= t].max(initial=0))
        for r, t in zip(risk, target.time, strict=True)
    ]
    known = SurvivalTarget(target.time, target.event & (target.time <= train.time[train.event].max()))
    assert values(table, "d_calibration_p") == pytest.approx([d_calibration(own, known).p_value])
    assert (table["note"] == "").all()
    assert set(table["metric"]) >= {"uno_c", "integrated_brier", "d_calibration_p"}


@pytest.mark.parametrize(
    "call",
    [
        lambda target, risk: concordance(target, risk),
        lambda target, risk: evaluate(target, risk, target),
    ],
)
def test_swapped_arguments_are_named(call):
    target = SurvivalTarget([1.0, 2.0, 3.0], [True, False, True])
    message = "expected a SurvivalTarget after risk, got list: the prediction comes first"
    with pytest.raises(ValueError, match=f"^{message}$"):
        call(target, [1.0, 2.0, 3.0])
