import re

import numpy as np
import pandas as pd
import pytest

from healnet.data import encode_clinical

nan = np.nan
TABLE = pd.DataFrame(
    {
        "age": ["61", "[Not Available]", " 40 "],
        "stage": ["Stage II", "not reported", "Stage I"],
        "sex": ["MALE", None, "FEMALE"],
        "smoker": [True, None, False],
        "grade": pd.array([1, None, 3], dtype="Int64"),
        "diagnosis": ["2001-01-31", "2001-02-01", "NA"],
        "birth": ["1950-01-31", "'--", None],
    },
    index=["a", "b", "c"],
)


def test_findings_become_numbers_and_gaps_stay():
    encoded = encode_clinical(
        TABLE,
        ordinal={"stage": ["Stage I", "Stage II", "Stage III"]},
        one_hot=["sex"],
        dates={"diagnosis": "birth"},
    )
    expected = pd.DataFrame(
        {
            "age": [61, nan, 40],
            "stage": [1, nan, 0],
            "sex=FEMALE": [0, nan, 1],
            "sex=MALE": [1, nan, 0],
            "smoker": [1, nan, 0],
            "grade": [1, nan, 3],
            "diagnosis": [(pd.Timestamp("2001-01-31") - pd.Timestamp("1950-01-31")).days, nan, nan],
        },
        index=["a", "b", "c"],
    )
    pd.testing.assert_frame_equal(encoded, expected, check_dtype=False)
    assert (encoded.dtypes == np.float64).all()
    assert TABLE.loc["a", "age"] == "61"


def test_new_patients_get_the_columns_of_the_levels_given():
    levels = {"sex": ["FEMALE", "MALE"]}
    new = encode_clinical(TABLE.loc[["a"], ["sex"]], one_hot=levels)
    assert new.to_dict("list") == {"sex=FEMALE": [0.0], "sex=MALE": [1.0]}


def test_days_since_one_date():
    encoded = encode_clinical(TABLE[["diagnosis"]], dates={"diagnosis": "2001-01-01"})
    np.testing.assert_array_equal(encoded["diagnosis"], [30, 31, nan])
    parsed = pd.DataFrame({"visit": pd.to_datetime(["2020-01-02", None])})
    np.testing.assert_array_equal(encode_clinical(parsed, dates={"visit": "2020-01-01"})["visit"], [1, nan])


def test_a_word_for_unknown_may_be_a_level():
    table = pd.DataFrame({"x": ["unknown", "yes", "[weak]", "[other]"]})
    encoded = encode_clinical(table, ordinal={"x": ["unknown", "[weak]", "yes"]})
    np.testing.assert_array_equal(encoded["x"], [0, 2, 1, nan])
    none = encode_clinical(pd.DataFrame({"therapy": ["None", "chemo"]}), one_hot=["therapy"])
    assert none.columns.tolist() == ["therapy=None", "therapy=chemo"]


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (["sex"], {}, "column 'sex': expected numbers, got 'MALE'; name it in ordinal, one_hot or dates"),
        (["sex"], {"one_hot": ["gender"]}, "no column 'gender'; the table has 'sex'"),
        (
            ["stage"],
            {"ordinal": {"stage": ["Stage I", "Stage III"]}},
            "column 'stage': expected one of 'Stage I', 'Stage III', got 'Stage II'",
        ),
        (
            ["sex"],
            {"ordinal": {"sex": ["MALE", "FEMALE"]}, "one_hot": ["sex"]},
            "column 'sex' is in more than one of ordinal, one_hot and dates",
        ),
        (
            ["age"],
            {"dates": {"age": "2001-01-01"}},
            "column 'age': expected dates as 2020-12-31, got '61'",
        ),
    ],
)
def test_what_cannot_be_is_refused(columns, options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        encode_clinical(TABLE[columns], **options)


def test_a_gap_among_integers_changes_no_level():
    """pandas reads integers with a gap as floats."""
    for cells in ([1, 3, 2], [1.0, 3.0, nan]):
        table = pd.DataFrame({"g": cells})
        for levels in ([1, 2, 3], ["1", "2", "3"]):
            assert encode_clinical(table, ordinal={"g": levels})["g"].tolist()[:2] == [0, 2]
        one_hot = encode_clinical(table, one_hot=["g"])
        assert one_hot["g=3"].tolist()[:2] == [0, 1]
    assert encode_clinical(pd.DataFrame({"g": [0.5, 1.0]}), one_hot=["g"]).columns.tolist() == [
        "g=0.5",
        "g=1",
    ]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            pd.DataFrame({"sex": ["Male", "male", "Female"]}),
            "column 'sex': the levels 'Male', 'male' differ in upper and lower case only",
        ),
        (
            pd.DataFrame({"sex": [None, "[Unknown]"]}),
            "column 'sex': no value is known; give the levels, as one_hot={'sex': [...]}",
        ),
        (pd.DataFrame([["F", 1], ["M", 2]], columns=["sex", "sex"]), "column 'sex' is there twice"),
    ],
)
def test_levels_that_are_found_must_be_plain(table, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        encode_clinical(table, one_hot=["sex"])


@pytest.mark.parametrize("values", [pd.to_datetime(["2020-01-01"]), pd.to_timedelta([3], unit="D")])
def test_nanoseconds_are_no_numbers(values):
    message = f"column 'x': expected numbers, got {values.dtype}; name it in dates, or take its days"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        encode_clinical(pd.DataFrame({"x": values}))


@pytest.mark.parametrize("name", ["days_to_death", "Overall Survival (Months)", "vital_status", "OS_MONTHS"])
def test_outcomes_are_no_findings(name):
    message = f"column {name!r} is an outcome by its name, not an input; leave it out"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        encode_clinical(pd.DataFrame({name: [1.0]}))


def test_years_are_no_dates():
    with pytest.raises(
        ValueError, match=r"^column 'year': expected dates as 2020-12-31, got (np.int64\()?2001\)?$"
    ):
        encode_clinical(pd.DataFrame({"year": [2001, 2003]}), dates={"year": "2000-01-01"})


def test_an_interval_in_brackets_is_a_level_and_not_unknown():
    """R's cut(include.lowest=TRUE) writes the lowest interval so."""
    table = pd.DataFrame({"age": ["[18,40]", "(40,65]", "[Not Available]", "(65,Inf]"]}, index=list("abcd"))
    encoded = encode_clinical(table, one_hot=["age"])
    assert encoded.columns.tolist() == ["age=(40,65]", "age=(65,Inf]", "age=[18,40]"]
    assert encoded["age=[18,40]"].tolist()[:2] == [1.0, 0.0]
    assert encoded.loc["c"].isna().all()
    for level in ("[-3,2]", "[.5,1]", "[ +1, 2]"):
        assert encode_clinical(pd.DataFrame({"x": [level, "b"]}), one_hot=["x"]).shape == (2, 2)


def test_dates_with_and_without_a_time_zone():
    table = pd.DataFrame(
        {"start": ["2020-01-01", "2020-01-01T12:00:00+02:00"], "end": ["2020-01-03T00:00:00Z", "2020-01-02"]}
    )
    days = encode_clinical(table, dates={"end": "start"})["end"]
    assert days.tolist() == pytest.approx([2.0, 14 / 24])
    aware = table.assign(start=pd.to_datetime(["2020-01-01", "2020-01-02"]).tz_localize("UTC"))
    assert encode_clinical(aware, dates={"end": "start"})["end"].tolist() == [2.0, 0.0]
