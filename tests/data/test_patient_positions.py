import re

import numpy as np
import pandas as pd
import pytest

from healnet.data.patient_positions import indexed_patients, patients_by_id

PATIENTS = pd.Index(["1", "2", "3", "4"], dtype=object)
OLD = pd.Series([False, True, True, False], index=[1, 2, 3, 4])


@pytest.mark.parametrize(
    ("index", "positions"),
    [
        (2, [2]),
        (-1, [3]),
        (slice(None, None, 3), [0, 3]),
        ([3, 0], [3, 0]),
        (np.array([], dtype=int), []),
        (OLD, [1, 2]),
        (OLD.set_axis(PATIENTS), [1, 2]),
        (OLD.reset_index(drop=True), [1, 2]),
        (OLD.set_axis([7, 9, 11, 20]), [1, 2]),  # rows that are left of a larger table
        (pd.Series([2, 1]), [2, 1]),
    ],
)
def test_an_index_as_numpy_takes_it(index, positions):
    assert indexed_patients(index, PATIENTS).tolist() == positions


@pytest.mark.parametrize(
    ("mask", "way_out"),
    [
        (OLD[[3, 4, 2, 1]], "series.set_axis(series.index.astype(str)).reindex(cohort.patients)"),
        (OLD.set_axis(PATIENTS[::-1]), "series.reindex(cohort.patients)"),
        (OLD.set_axis(["a", "b", "c", "d"]), "series.reindex(cohort.patients)"),
    ],
)
def test_a_series_of_patients_in_another_order_is_refused(mask, way_out):
    message = f"expected a Series in the order of the cohort's patients, got another index; {way_out} puts it in order"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        indexed_patients(mask, PATIENTS)


def test_a_patient_twice_is_refused():
    with pytest.raises(ValueError, match=r"^patient '2' is given more than once$"):
        indexed_patients([0, 1, 1], PATIENTS)


def test_patients_are_found_by_id():
    assert patients_by_id([4, "1"], PATIENTS).tolist() == [3, 0]
    assert patients_by_id("3", PATIENTS).tolist() == [2]
    with pytest.raises(ValueError, match=r"^patient '5' is not in the cohort$"):
        patients_by_id(["1", "5"], PATIENTS)
