import numpy as np
import pandas as pd
import pytest

from healnet.data.modalities.modality import of_one_kind
from healnet.data.modalities.table import Table
from healnet.data.modalities.values import Values

PATIENTS = pd.Index(["p0"], dtype=object)


def test_parts_are_of_one_kind_or_numbers_of_patients():
    table = Table.of(pd.DataFrame({"a": [1.0]}, index=PATIENTS), PATIENTS)
    values = Values.of("x", {"p0": np.ones((2, 1))}, PATIENTS)
    assert of_one_kind("x", Table, [table, 3]) == [table, 3]
    with pytest.raises(
        ValueError, match=r"^modality 'x': expected one kind in all cohorts, got Table and Values$"
    ):
        of_one_kind("x", Table, [table, 3, values])
