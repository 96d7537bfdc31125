import re

import numpy as np
import pandas as pd
import pytest

from healnet.data.checks import check_ids, check_table, shorten


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
        (frame(np.empty((2, 0)), columns=[]), "modality 'rna': the table has no columns"),
        (
            frame([[1, "x", 2], [1, "y", 2]]),
            "modality 'rna': column 'b' is not numeric (object); encode it as numbers, with NaN where unknown",
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
        (frame(GOOD, index=["p1", " "]), "modality 'rna': a patient id is empty"),
        (
            frame(GOOD, index=["p1", np.nan]),
            "modality 'rna': patient ids must be strings or integers, got nan",
        ),
        (
            frame(GOOD, index=[1.0, 2.0]),
            "modality 'rna': patient ids must be strings or integers, got 1.0",
        ),
        (
            frame(GOOD, index=[True, False]),
            "modality 'rna': patient ids must be strings or integers, got True",
        ),
    ],
)
def test_what_cannot_be_a_table_is_refused_by_name(table, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_table("rna", table)


def test_ids_that_are_the_same_text_are_the_same_patient():
    with pytest.raises(
        ValueError, match=r"^cohort: duplicated patient id '12'; a cohort has one row per patient$"
    ):
        check_ids([12, "12"], "cohort")


def test_long_lists_are_cut_short():
    assert shorten(range(4), limit=2) == "0, 1 and 2 more"
    assert shorten(["a", "b"], limit=2) == "'a', 'b'"
