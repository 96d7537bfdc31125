"""A target is checked once, keeps its sign, and cannot be changed."""

import pickle
import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sksurv.datasets import load_whas500
from sksurv.util import Surv

from healnet.survival import SurvivalTarget, concordance

TABLES = Path(__file__).parents[1] / "reference" / "tables"
NO_EVENT = (
    "expected 0 or 1, bool, text that begins with '0:' or '1:', or a word as Dead and Alive in 'e', "
    "got {} for patient '{}'"
)


def test_float64_times_and_bool_events():
    target = SurvivalTarget(torch.tensor([5, 3, 8]), pd.Series([1.0, 0.0, 1.0]))
    assert target.time.dtype == np.float64
    assert target.time.tolist() == [5.0, 3.0, 8.0]
    assert target.event.dtype == np.bool_
    assert target.event.tolist() == [True, False, True]


def test_tensors_that_numpy_lacks():
    target = SurvivalTarget(torch.tensor([5, 3]).bfloat16(), torch.tensor([1.0, 0.0], requires_grad=True))
    assert target == SurvivalTarget([5, 3], [True, False])


def test_python_bools_in_an_object_column():
    assert SurvivalTarget([1, 2], pd.Series([True, False], dtype=object)).event.tolist() == [True, False]


def test_xenas_survival_file():
    """One row has no outcome: it is reported, and left out by the line that the message gives."""
    frame = pd.read_csv(TABLES / "xena_survival.txt", sep="\t", index_col="sample")
    message = (
        r"^expected 'OS.time' and 'OS' of every patient, got 1 of 5 without \('TCGA-OR-A5J5-01'\); "
        r"leave them out with frame\[SurvivalTarget.has_outcome\(frame, 'OS.time', 'OS'\)\]$"
    )
    with pytest.raises(ValueError, match=message):
        SurvivalTarget.from_frame(frame)
    frame = frame[SurvivalTarget.has_outcome(frame, "OS.time", "OS")]
    assert frame.index.str[-5:].tolist() == ["J1-01", "J2-01", "J3-01", "J4-01"]
    assert SurvivalTarget.from_frame(frame) == SurvivalTarget([1355, 1677, 2091, 423], [1, 1, 0, 1])
    months = SurvivalTarget.from_frame(frame, "PFI.time", "PFI", scale=12 / 365.25)
    np.testing.assert_allclose(months.time, np.array([754, 289, 53, 126]) * 12 / 365.25)
    assert SurvivalTarget.has_outcome(frame, "DFI.time", "DFI").tolist() == [True, False, True, False]


@pytest.mark.parametrize(
    ("name", "events"),
    [("OS", [1, 1, 0, 0]), ("DSS", [1, 1, 0, 0]), ("PFS", [1, 1, 1, 0]), ("DFS", [1, 1, 0])],
)
def test_cbioportals_statuses(name, events):
    frame = pd.read_csv(TABLES / "cbioportal_outcomes.txt", sep="\t", comment="#", index_col="PATIENT_ID")
    columns = {"time": f"{name}_MONTHS", "event": f"{name}_STATUS"}
    frame = frame[SurvivalTarget.has_outcome(frame, **columns)]
    target = SurvivalTarget.from_frame(frame, **columns)
    assert target.event.tolist() == [event == 1 for event in events]
    assert target.time.tolist() == [float(time) for time in frame[columns["time"]]]


GDC = {"time": ("days_to_death", "days_to_last_follow_up"), "event": "vital_status"}


def test_gdcs_two_columns_of_days():
    frame = pd.read_csv(TABLES / "gdc_clinical.tsv", sep="\t", index_col="case_submitter_id")
    has = SurvivalTarget.has_outcome(frame, **GDC)
    # Dead without a day of death, alive without follow-up, and status not reported.
    assert frame.index[~has].tolist() == ["TCGA-OR-A5J5", "TCGA-OR-A5J6", "TCGA-OR-A5J7"]
    target = SurvivalTarget.from_frame(frame[has], **GDC)
    assert target.event.tolist() == [True, True, False, True]
    assert target.time.tolist() == [1355, 1677, 2091, 423]  # the last was followed up before the death
    message = (
        "expected 'vital_status' of every patient, 'days_to_death' of those with the event and 'days_to_last_follow_up' "
        "of the others, got 3 of 7 without ('TCGA-OR-A5J5', 'TCGA-OR-A5J6', 'TCGA-OR-A5J7'); leave them out with "
        "frame[SurvivalTarget.has_outcome(frame, ('days_to_death', 'days_to_last_follow_up'), 'vital_status')]"
    )
    with pytest.raises(ValueError) as error:  # noqa: PT011, the whole message is compared
        SurvivalTarget.from_frame(frame, **GDC)
    assert str(error.value) == message


def test_the_last_follow_up_is_no_time_of_death():
    columns = {"days_to_death": [10, None, None], "days_to_last_follow_up": [25, 25, 40]}
    frame = pd.DataFrame({"vital_status": ["Dead", "Dead", "Alive"], **columns}, index=["a", "b", "c"])
    has = SurvivalTarget.has_outcome(frame, **GDC)
    assert has.tolist() == [True, False, True]
    assert SurvivalTarget.from_frame(frame[has], **GDC) == SurvivalTarget([10, 40], [True, False])


@pytest.mark.parametrize(
    ("status", "death", "follow_up", "message"),
    [
        (
            "Alive",
            30,
            90,
            "expected 'days_to_death' of patients with the event alone, got 30 for patient 'b', whose 'vital_status' says "
            "that it was not observed (1 of 2 are so)",
        ),
        (
            "Alive",
            None,
            -5,
            "expected times that are finite and >= 0, got -5 for patient 'b' (1 of 2 are wrong)",
        ),
        (
            "Dead",
            -1,
            None,
            "expected times that are finite and >= 0, got -1 for patient 'b' (1 of 2 are wrong)",
        ),
    ],
)
def test_two_columns_that_contradict_are_refused(status, death, follow_up, message):
    frame = pd.DataFrame(
        {
            "vital_status": ["Dead", status],
            "days_to_death": [10, death],
            "days_to_last_follow_up": [None, follow_up],
        },
        index=["a", "b"],
    )
    with pytest.raises(ValueError) as error:  # noqa: PT011, the whole message is compared
        SurvivalTarget.from_frame(frame, **GDC)
    assert str(error.value) == message


@pytest.mark.parametrize(
    "events",
    [
        [True, False],
        ["Dead", "Alive"],
        ["DECEASED", " living "],
        pd.array([True, False], dtype="boolean"),
        pd.Categorical(["yes", "no"]),
        ["1: died of\nother causes", "0:ALIVE OR DEAD TUMOR FREE"],
    ],
)
def test_ways_to_write_an_event(events):
    frame = pd.DataFrame({"days": ["20", " 30.5 "], "vital_status": events})
    assert SurvivalTarget.from_frame(frame, "days", "vital_status") == SurvivalTarget([20, 30.5], [1, 0])


@pytest.mark.parametrize(
    "events", [[1, 0], [1.0, 0.0], ["1", "0"], ["1.0", "0.0"], pd.array([1, 0], "Int64")]
)
def test_numbers_are_events_but_not_states(events):
    frame = pd.DataFrame({"days": [20, 30.5], "OS": events, "vital_status": events}, index=["p", "q"])
    assert SurvivalTarget.from_frame(frame, "days", "OS") == SurvivalTarget([20, 30.5], [1, 0])
    first = frame["vital_status"].astype(object).iloc[0]
    message = (
        f"expected words as Dead and Alive in 'vital_status', got {first!r} for patient 'p': which number is dead? "
        "Say it in a column of your own, as frame['event'] = frame['vital_status'] == 1 where 1 is dead"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        SurvivalTarget.from_frame(frame, "days", "vital_status")


@pytest.mark.parametrize("read", [np.asarray, np.mean, lambda target: concordance(target, target)])
def test_a_target_in_the_place_of_an_array_says_so(read):
    target = SurvivalTarget([1, 2, 3], [True, True, False])
    message = (
        "expected an array of numbers, got a SurvivalTarget; pass its `time` or `event`, or `to_structured()` to "
        "scikit-survival"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read(target)


@pytest.mark.parametrize(
    "unknown", [None, np.nan, "", " ", "[Not Available]", "Not Reported", "'--", "NA", pd.NA]
)
def test_ways_to_write_that_an_outcome_is_not_known(unknown):
    frame = pd.DataFrame({"t": [1, unknown, 3, 4], "e": [1, 1, unknown, 0]})
    assert SurvivalTarget.has_outcome(frame, "t", "e").tolist() == [True, False, False, True]
    message = r"^expected 't' and 'e' of every patient, got 2 of 4 without \(1, 2\); leave them out"
    with pytest.raises(ValueError, match=message):
        SurvivalTarget.from_frame(frame, "t", "e")


@pytest.mark.parametrize("name", ["censorship", "is_censored", "Alive", "survivor", "living_at_last_contact"])
def test_an_event_column_whose_name_says_the_opposite_is_refused(name):
    message = rf"^expected an event column in which 1 is the event, got '{name}', whose name says the opposite: if it is"
    with pytest.raises(ValueError, match=message):
        SurvivalTarget.from_frame(pd.DataFrame({"time": [1.0], name: [1]}), "time", name)


FRAMES = [
    ({}, "expected one column 't', got 0 in e"),
    ({"t": [1.0, 2], "e": [1, 2]}, NO_EVENT.format("2", "b")),
    ({"t": [1.0, 2], "e": ["1:DECEASED", "maybe"]}, NO_EVENT.format("'maybe'", "b")),
    ({"t": [1.0, "soon"], "e": [1, 1]}, "expected a number in 't', got 'soon' for patient 'b'"),
    ({"t": [True, False], "e": [1, 1]}, "expected a number in 't', got True for patient 'a'"),
    (
        {"t": [1.0, -2], "e": [1, 1]},
        "expected times that are finite and >= 0, got -2 for patient 'b' (1 of 2 are wrong)",
    ),
    (
        {"t": ["inf", 2], "e": [1, 1]},
        "expected times that are finite and >= 0, got inf for patient 'a' (1 of 2 are wrong)",
    ),
]


@pytest.mark.parametrize(("columns", "message"), FRAMES)
def test_tables_that_cannot_be_read_are_refused(columns, message):
    frame = pd.DataFrame(columns or {"e": [1, 0]}, index=["a", "b"])
    with pytest.raises(ValueError) as error:  # noqa: PT011, the whole message is compared
        SurvivalTarget.from_frame(frame, "t", "e")
    assert str(error.value) == message


def test_a_column_that_is_there_twice_and_a_scale_of_zero_are_refused():
    frame = pd.DataFrame([[1.0, 2.0, 1]], columns=["t", "t", "e"])
    with pytest.raises(ValueError, match=r"^expected one column 't', got 2 in t, t, e$"):
        SurvivalTarget.from_frame(frame, "t", "e")
    with pytest.raises(ValueError, match=r"^expected scale > 0, got 0$"):
        SurvivalTarget.from_frame(frame, "t", "e", scale=0)


def test_the_ids_of_a_table_stay_with_the_target():
    frame = pd.DataFrame({"t": [1, 2, 3], "e": [1, 0, 1]}, index=["a", "b", "c"])
    target = SurvivalTarget.from_frame(frame, "t", "e")
    assert target[[2, 0]].patients.tolist() == ["c", "a"]
    assert target[1].patients.tolist() == ["b"]
    assert target == SurvivalTarget([1, 2, 3], [1, 0, 1])  # equal by outcomes
    with pytest.raises(ValueError, match=r"^assignment destination is read-only$"):
        target.patients[0] = "z"
    assert SurvivalTarget.from_frame(frame.reset_index(), "t", "e").patients is None  # numbers of rows


def test_ids_of_numbers_stay_with_the_target_too():
    frame = pd.DataFrame({"t": [1, 2, 3], "e": [1, 0, 1]}, index=[311, 12, 205])
    target = SurvivalTarget.from_frame(frame, "t", "e")
    assert target.patients.tolist() == [311, 12, 205]
    assert target.first_other(np.array(["311", "205", "12"], dtype=object)) == 1
    assert target.first_other(np.array([311, 12, 205], dtype=object)) is None
    # Numbers may be those of rows, so some that agree by chance say nothing.
    assert target.first_other(np.array([311, 205, 13], dtype=object)) is None
    rows = frame.set_axis([2, 0, 1])
    assert SurvivalTarget.from_frame(rows, "t", "e").patients.tolist() == [2, 0, 1]
    assert SurvivalTarget.from_frame(frame.set_axis([0, 1, 2]), "t", "e").patients is None


def test_a_flipped_status_in_a_table_warns_at_the_caller():
    frame = pd.DataFrame({"t": range(30), "e": 1})
    with pytest.warns(UserWarning, match=r"^30 of 30 patients \(100.0%\) have an observed event") as caught:
        SurvivalTarget.from_frame(frame, "t", "e")
    assert caught[0].filename == __file__


def test_structured_arrays_of_scikit_survival():
    _, whas = load_whas500()
    target = SurvivalTarget.from_structured(whas)  # fields "fstat", "lenfol"
    assert (target.time == whas["lenfol"]).all()
    assert (target.event == whas["fstat"]).all()
    assert SurvivalTarget.from_structured(target.to_structured()) == target
    for wrong in (
        np.zeros(2),
        np.zeros(2, [("event", int), ("time", float)]),
        np.zeros(2, [("event", bool)]),
    ):
        with pytest.raises(
            ValueError, match=r"^expected a structured array of one bool field and one of numbers, got "
        ):
            SurvivalTarget.from_structured(wrong)


def test_censorship_is_turned_by_name():
    target = SurvivalTarget.from_censorship([5.0, 3.0, 8.0], [0, 1, 0])
    assert target == SurvivalTarget([5.0, 3.0, 8.0], [True, False, True])


@pytest.mark.parametrize(
    ("horizon", "times", "events"),
    [
        (8.0, [5.0, 3.0, 8.0, 8.0], [True, False, True, False]),
        (4.5, [4.5, 3.0, 4.5, 4.5], [False, False, False, False]),
        (100, [5.0, 3.0, 8.0, 9.0], [True, False, True, True]),
    ],
)
def test_a_study_that_ended_earlier(horizon, times, events):
    target = SurvivalTarget([5.0, 3.0, 8.0, 9.0], [True, False, True, True])
    assert target.censored_at(horizon) == SurvivalTarget(times, events)
    assert target.time[3] == 9.0


def test_a_study_that_ended_earlier_keeps_its_patients():
    table = pd.DataFrame({"OS.time": [5.0, 8.0], "OS": [1, 1]}, index=["p1", "p2"])
    assert SurvivalTarget.from_frame(table).censored_at(6).patients.tolist() == ["p1", "p2"]


@pytest.mark.parametrize("horizon", [0.0, -1.0, np.inf, np.nan])
def test_an_end_that_is_no_time_is_refused(horizon):
    with pytest.raises(ValueError, match=f"^{re.escape(f'expected a finite horizon > 0, got {horizon}')}$"):
        SurvivalTarget([5.0], [True]).censored_at(horizon)


def test_the_structured_array_is_scikit_survivals():
    target = SurvivalTarget([5.0, 3.0], [True, False])
    theirs = Surv.from_arrays(target.event, target.time)
    assert target.to_structured().dtype == theirs.dtype
    assert (target.to_structured() == theirs).all()


@pytest.mark.parametrize(
    ("index", "times"),
    [
        (1, [3.0]),
        (-1, [8.0]),
        (slice(1, None), [3.0, 8.0]),
        (np.array([2, 0]), [8.0, 5.0]),
        ([2, 0], [8.0, 5.0]),
        (np.array([True, False, True]), [5.0, 8.0]),
        (np.zeros(3, dtype=bool), []),
    ],
)
def test_indexing_gives_a_target(index, times):
    target = SurvivalTarget([5.0, 3.0, 8.0], [True, False, True])
    part = target[index]
    assert isinstance(part, SurvivalTarget)
    assert part.time.tolist() == times
    assert part.event.tolist() == [time != 3 for time in times]
    assert len(part) == len(times)


def test_iteration_gives_one_patient_at_a_time():
    target = SurvivalTarget([5.0, 3.0], [True, False])
    assert [patient.time.item() for patient in target] == [5.0, 3.0]


def test_it_cannot_be_changed_and_does_not_hold_the_callers_arrays():
    time = np.array([1.0, 2.0])
    target = SurvivalTarget(time, [True, False])
    given = target.time.copy(), target.event.copy()
    part = SurvivalTarget.unchecked(*given)
    time[0] = given[0][0] = 99
    assert target.time[0] == part.time[0] == 1
    with pytest.raises(ValueError, match=r"^assignment destination is read-only$"):
        target.time[0] = 99
    with pytest.raises(AttributeError, match=r"^cannot assign to field 'time'$"):
        target.time = time


def test_equal_by_content_pickles_and_prints():
    target = SurvivalTarget([5.0, 3.0], [True, False])
    assert pickle.loads(pickle.dumps(target)) == target
    assert target != SurvivalTarget([5.0, 3.0], [True, True])
    assert target != "target"
    assert repr(target) == "SurvivalTarget(2 patients, 1 events, time 3 to 5)"
    assert repr(target[:0]) == "SurvivalTarget(0 patients, 0 events)"


REFUSED = [
    ([1.0, -2.0], [1, 0], "expected time to be finite and >= 0, got -2 at position 1 (1 of 2 are wrong)"),
    (
        [np.nan, np.inf],
        [1, 0],
        "expected time to be finite and >= 0, got nan at position 0 (2 of 2 are wrong)",
    ),
    (["a", "b"], [1, 0], "expected time of numbers, got <U1"),
    ([True, False], [1, 0], "expected time of numbers, got bool"),
    (
        np.array(["2020-01-01", "2021-01-01"], "datetime64[D]"),
        [1, 0],
        "expected time of numbers, got datetime64[D]",
    ),
    (np.array([3, 4], "timedelta64[D]"), [1, 0], "expected time of numbers, got timedelta64[D]"),
    ([[1.0, 2.0]], [1], "expected time of shape (n,) or (n, 1), got (1, 2)"),
    (
        [1.0, 2.0],
        [1, 2],
        "expected event to be bool or exactly 0 or 1, got 2 at position 1 (1 of 2 are wrong)",
    ),
    (
        [1.0, 2.0],
        [1, np.nan],
        "expected event to be bool or exactly 0 or 1, got nan at position 1 (1 of 2 are wrong)",
    ),
    ([1.0, 2.0], ["dead", "alive"], "expected event to be bool or exactly 0 or 1, got <U5"),
    ([1.0, 2.0], [True, None], "expected event to be bool or exactly 0 or 1, got object"),
    ([1.0, 2.0], [[True, False]], "expected event of shape (n,) or (n, 1), got (1, 2)"),
    ([1.0, 2.0], [True], "expected time and event of one length, got 2 times and 1 events"),
]


@pytest.mark.parametrize(("time", "event", "message"), REFUSED)
def test_refused(time, event, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011, the whole message is compared
        SurvivalTarget(time, event)
    assert str(error.value) == message


def test_a_wrong_censorship_is_called_by_its_name():
    with pytest.raises(
        ValueError,
        match=r"^expected censorship to be bool or exactly 0 or 1, got 3 at position 0 \(1 of 1 are wrong\)$",
    ):
        SurvivalTarget.from_censorship([1.0], [3])


@pytest.mark.parametrize(("events", "n"), [(97, 100), (0, 100), (1, 200), (20, 20)])
def test_a_share_of_events_that_looks_upside_down_warns(events, n):
    event = np.arange(n) < events
    with pytest.warns(
        UserWarning, match=rf"^{events} of {n} patients \({events / n:.1%}\) have an observed event"
    ):
        target = SurvivalTarget(np.arange(n), event)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(target[: n // 2]) == n // 2  # a fold does not warn again


@pytest.mark.parametrize(("events", "n"), [(95, 100), (1, 100), (19, 19), (0, 19), (50, 100)])
def test_no_warning_within_bounds_or_for_few_patients(events, n):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert SurvivalTarget(np.arange(n), np.arange(n) < events).event.sum() == events


def test_the_warning_points_at_the_caller():
    with pytest.warns(UserWarning, match=r"belongs in SurvivalTarget\.from_censorship\.$") as caught:
        SurvivalTarget(np.arange(50), np.ones(50))
    with pytest.warns(UserWarning, match=r"belongs in SurvivalTarget\.from_censorship\.$") as caught_from:
        SurvivalTarget.from_censorship(np.arange(50), np.zeros(50))
    assert caught[0].filename == __file__
    assert caught_from[0].filename == __file__
