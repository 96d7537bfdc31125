"""Numbers that stand for "not known" are warned of, and findings are not."""

import re
import warnings

import numpy as np
import pandas as pd
import pytest

from healnet.data import Cohort

IDS = [f"p{i}" for i in range(6)]
NAN = float("nan")


def cohort(column):
    table = pd.DataFrame({"age": [61.0, 47.0, 70.0, 55.0, 58.0, 66.0], "x": column}, index=IDS)
    return Cohort({"clinical": table})


@pytest.mark.parametrize(
    ("column", "code"),
    [
        ([61, -999, 70, 55, -999, 66], "-999"),
        ([61, -99, 70, 55, 58, 66], "-99"),  # not twice as far as the others, and the only negative one
        ([1, 0, 2, -9, 1, NAN], "-9"),
        ([-2.5, 3.1, -9999, 0.2, NAN, 1.0], "-9999"),  # log ratios
        ([1.2, 999, 3.4, 2.2, 999, 0.7], "999"),
        ([-1.2, 99999, NAN, 2.2, 99999, 0.7], "99999"),
    ],
)
def test_codes_are_warned_of(column, code):
    message = (
        f"modality 'clinical': column 'x' has values such as {code}, far from its others: if they mean 'not known', make "
        f"them NaN (table.replace({code}, float('nan'))), or the model reads them as numbers"
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$") as caught:
        cohort(column)
    assert [warning.filename for warning in caught] == [__file__]
    with pytest.warns(UserWarning, match=f"^{re.escape(message.replace('clinical', 'more'))}$") as caught:
        cohort([1, 0, 2, 0, 1, 1]).with_modality("more", pd.DataFrame({"x": column}, index=IDS))
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize(
    "column",
    [
        [-9, -8, -7.5, 3, 2, 1],  # a deep log ratio
        [-99, -80, -60, 3, 2, 1],
        [1.2, 999, 3.4, 2.2, 5, 0.7],  # once: a count that was measured
        [999, 600, 999, 550, 800, 700],
        [-999, -999, NAN, NAN, NAN, NAN],  # nothing to compare with
        [99, 1, 99, 2, 3, 1],
        [-998, 1, 4, 2, 3, 1],
    ],
    ids=str,
)
def test_findings_are_not(column):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cohort(column).table("clinical")["x"].tolist() == pytest.approx(column, nan_ok=True)


def test_columns_are_named_together_and_patients_without_a_row_are_no_matter():
    table = pd.DataFrame(np.arange(24.0).reshape(6, 4), index=IDS, columns=list("abcd"))
    table.loc["p3", ["b", "d"]] = -999
    with pytest.warns(
        UserWarning, match=r"^modality 'rna': column 'b', 'd' has values such as -999, far"
    ) as caught:
        Cohort({"rna": table, "age": pd.DataFrame({"age": [50.0] * 7}, index=[*IDS, "p6"])})
    assert len(caught) == 1
