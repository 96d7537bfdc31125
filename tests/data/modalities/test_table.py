import numpy as np
import pandas as pd
import torch

from healnet.data.modalities.table import Table

PATIENTS = pd.Index(["p0", "p1", "p2"], dtype=object)


def test_a_table_says_what_it_holds_and_cannot_be_written():
    table = Table.of(
        pd.DataFrame({"a": [np.nan, np.nan, 1.0], "b": [2.0, np.nan, np.nan]}, index=PATIENTS[::-1]), PATIENTS
    )
    assert table.missing().tolist() == [False, True, False]
    assert (str(table), table.width) == ("2x2", 2)
    assert table.take(np.array([2, 1])).frame["b"].tolist()[0] == 2.0
    assert not table.frame.to_numpy().flags.writeable
    assert not table.take(np.array([0])).frame.to_numpy().flags.writeable


def test_its_memory_is_its_own_and_patients_it_lacks_are_absent():
    given = pd.DataFrame({"a": [1.0, 2.0]}, index=["p2", "p0"])
    table = Table.of(given, PATIENTS)
    given.iloc[0, 0] = 99.0
    np.testing.assert_array_equal(table.frame["a"], [2.0, np.nan, 1.0])


def test_it_reads_one_patient_with_a_mask():
    table = Table.of(pd.DataFrame({"a": [1.5, np.nan], "b": [2.5, np.nan]}, index=["p0", "p1"]), PATIENTS[:2])
    read = table.reader(torch.float64, None)
    assert [part.tolist() for part in read(0, None)] == [[1.5, 2.5], [True, True]]
    assert [part.tolist() for part in read(1, None)] == [[0.0, 0.0], [False, False]]
    assert read(0, None).values.dtype == torch.float64
    assert table.lengths().tolist() == [0, 0]
