import re

import numpy as np
import pandas as pd
import pytest
import torch

from healnet.data.checks import check_finite, check_ids, check_table, check_target, shorten
from healnet.inputs import Masked
from healnet.survival import SurvivalTarget


def frame(values, index=("p1", "p2"), columns=("a", "b", "c")):
    return pd.DataFrame(values, index=list(index), columns=list(columns))


GOOD = [[1.0, 2.0, 3.0], [4.0, np.nan, 6.0]]


def test_a_good_table_becomes_float64_with_text_ids():
    table = check_table("rna", pd.DataFrame({3: [True, False], "b": [1, 2]}, index=[7, 11]))
    assert table.index.tolist() == ["7", "11"]
    assert table.columns.tolist() == ["3", "b"]
    assert table.to_numpy().tolist() == [[1.0, 1.0], [0.0, 2.0]]
    assert (table.dtypes == np.float64).all()


def test_pandas_own_missing_values_become_nan():
    table = check_table("rna", pd.DataFrame({"a": pd.array([1, None], dtype="Int64")}, index=["p", "q"]))
    assert table["a"].iloc[0] == 1
    assert np.isnan(table["a"].iloc[1])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            frame(GOOD, index=["p1", "p1"]),
            "modality 'rna': duplicated patient id 'p1'; a cohort has one row per patient",
        ),
        (frame(GOOD, columns=["a", "b", "a"]), "modality 'rna': duplicated column 'a'"),
        (frame(np.empty((2, 0)), columns=[]), "modality 'rna': expected columns, got none"),
        (
            frame([[1, "x", 2], [1, "y", 2]]),
            "modality 'rna': column 'b' is not numeric (object): 'x' of patient 'p1'; encode it as numbers, with NaN where "
            "unknown",
        ),
        (
            frame([[1, 2, 3], [1, 2.5, None]]).astype(object),
            "modality 'rna': column 'a' is not numeric (object): its numbers are held as objects, which "
            "table.apply(pd.to_numeric) mends; encode it as numbers, with NaN where unknown",
        ),
        (
            pd.DataFrame({"id": ["p1", "p2"], "age": [50, 60]}),
            "modality 'rna': column 'id' is not numeric (object): 'p1'; if it is the patients' ids, make it the index with "
            "table.set_index('id'); encode it as numbers, with NaN where unknown",
        ),
        (
            pd.DataFrame({"age": [50, 60], "hospital_id": [2**53 + 1, 2]}, index=["p1", "p2"]),
            "modality 'rna': column 'hospital_id' has integers of 2**53 or more, which float64 does not tell apart: is it "
            "an id?",
        ),
        (
            frame([[1, 2, 3 + 1j], [1, 2, 3]]),
            "modality 'rna': column 'c' is not numeric (complex128); encode it as numbers, with NaN where unknown",
        ),
        (
            pd.DataFrame({"when": pd.to_datetime(["2020-01-01", "2021-01-01"])}, index=["p", "q"]),
            "modality 'rna': column 'when' is not numeric (datetime64[ns]); encode it as numbers, with NaN where unknown",
        ),
        (
            frame([[1, 2, np.inf], [-np.inf, 2, 3]]),
            "modality 'rna': infinite value in column 'c' of patient 'p1' (2 infinite in all); missing values are NaN",
        ),
        (frame(GOOD, index=["p1", " "]), "modality 'rna': expected patient ids, got an empty one"),
        (
            frame(GOOD, index=["p1", np.nan]),
            "modality 'rna': expected patient ids of strings or integers, got nan",
        ),
        (
            frame(GOOD, index=[1.0, 2.0]),
            "modality 'rna': expected patient ids of strings or integers, got 1.0",
        ),
        (
            frame(GOOD, index=[True, False]),
            "modality 'rna': expected patient ids of strings or integers, got True",
        ),
    ],
)
def test_what_cannot_be_a_table_is_refused_by_name(table, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_table("rna", table)


def test_the_largest_integers_that_are_exact_are_taken():
    values = check_table("rna", pd.DataFrame({"a": [2**53 - 1, 1 - 2**53]}, index=["p1", "p2"]))
    assert values["a"].tolist() == [2.0**53 - 1, 1 - 2.0**53]


def test_outcomes_are_of_the_patients_in_their_order():
    table = pd.DataFrame({"t": [3.0, 5.0, 8.0], "e": [1, 0, 1]}, index=["p1", "p2", "p3"])
    target = SurvivalTarget.from_frame(table, "t", "e")
    check_target(target, pd.Index(["p1", "p2", "p3"]))
    check_target(target, pd.Index(["s7", "s8", "s9"]))  # ids of another kind
    check_target(target[[2, 0]], pd.Index(["p3", "p1"]))
    check_target(None, pd.Index(["p1"]))
    message = (
        "expected patients in the order of the target's table, got 'p3' at position 1 where the table has 'p2'; "
        "leave `patients` out to take the table's own"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_target(target, pd.Index(["p1", "p3", "p2"]))
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_target(target, pd.Index(["p1", "p3", "s7"]))  # one of whom the table does not know
    with pytest.raises(ValueError, match=r"^the cohort has 2 patient ids but 3 survival times$"):
        check_target(target, pd.Index(["p1", "p2"]))


@pytest.mark.parametrize("channels", [-1, 0, 1], ids=["last", "first, of one", "first, of several"])
def test_what_a_mask_hides_may_be_anything(channels):
    values, mask = torch.zeros(3, 5, 2), torch.ones(3, 5, dtype=torch.bool)
    mask[1, 4] = False
    values[1, 4] = torch.tensor([torch.nan, torch.inf])
    check_finite("modality 'ct'", Masked(values.movedim(-1, channels), mask))
    values[2, 0, 1] = -torch.inf
    message = "modality 'ct': expected finite values, got -inf; what is missing is masked, or left out"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_finite("modality 'ct'", Masked(values.movedim(-1, channels), mask))


def test_ids_that_are_the_same_text_are_the_same_patient():
    with pytest.raises(
        ValueError, match=r"^cohort: duplicated patient id '12'; a cohort has one row per patient$"
    ):
        check_ids([12, "12"], "cohort")


def test_long_lists_are_cut_short():
    assert shorten(range(4), limit=2) == "0, 1 and 2 more"
    assert shorten(["a", "b"], limit=2) == "'a', 'b'"


def test_cells_that_are_no_ids_are_named_by_their_row():
    table = pd.DataFrame({"a": [[1], [2]]})
    message = (
        "modality 'rna': column 'a' is not numeric (object): [1] of patient '0'; "
        "encode it as numbers, with NaN where unknown"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_table("rna", table)


def test_only_columns_of_integers_are_held_against_float64():
    large = {"a": [1, 2], "b": [2.0**60, 1.0], "c": [1, -(2**53)]}
    message = "modality 'rna': column 'c' has integers of 2**53 or more, which float64 does not tell apart: is it an id?"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_table("rna", pd.DataFrame(large, index=["p1", "p2"]))
