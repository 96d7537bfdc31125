import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from healnet.data.modalities.modality_source import as_modality, check_source
from healnet.data.modalities.slide_bags import Bags
from healnet.data.modalities.table import Table
from healnet.data.modalities.values import Values

PATIENTS = pd.Index(["1", "2"], dtype=object)


def test_a_source_is_known_by_what_its_entries_are(tmp_path):
    torch.save(torch.ones(4, 3), tmp_path / "a.pt")
    sources = {
        Table: pd.DataFrame({"a": [1.0]}, index=[2]),
        Bags: {2: tmp_path / "a.pt", 1: None},
        Values: {2: np.ones((3, 1))},
    }
    for kind, source in sources.items():
        checked = check_source("x", source)
        modality = as_modality("x", checked, PATIENTS)
        assert "2" in checked.ids
        assert type(modality) is kind
        assert modality.missing().tolist() == [True, False]
    listed = as_modality("x", check_source("x", {"2": [str(tmp_path / "a.pt")]}), PATIENTS)
    assert listed.lengths().tolist() == [0, 4]


def test_entries_of_two_kinds_are_values_and_refused_as_such():
    message = (
        "modality 'x', patient '2': expected an array, a tensor, a NamedTuple of tensors with a mask, "
        "or a function that reads one, got PosixPath"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        as_modality("x", check_source("x", {"1": np.ones(3), "2": Path("a.pt")}), PATIENTS)
