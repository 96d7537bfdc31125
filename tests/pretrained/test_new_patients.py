"""New patients come out with the model's modalities, columns and scaling, from every kind of data."""

import numpy as np
import pandas as pd
import pytest
import torch

from healnet.data import Cohort, Standardizer
from healnet.inputs import PatchBag
from healnet.pretrained.new_patients import match_patients

FEATURES = {"clinical": ["age", "size"], "rna": ["A", "B", "C"]}


@pytest.fixture
def tables():
    """Columns in another order, and one that the model does not know; the modalities too."""
    rna = pd.DataFrame({"C": [3.0, 30.0], "X": [9.0, 9.0], "A": [1.0, 10.0], "B": [2.0, 20.0]}, ["p1", "p2"])
    clinical = pd.DataFrame({"size": [5.0, 7.0], "age": [50.0, 70.0]}, ["p1", "p2"])
    return {"rna": rna, "clinical": clinical}


@pytest.mark.parametrize("kind", ["tables", "frame", "cohort"])
def test_columns_and_modalities_are_in_the_models_order(tables, kind):
    whole = Cohort({**tables, "other": tables["rna"]})
    data = {"tables": {**tables, "other": tables["rna"]}, "frame": whole.to_frame(), "cohort": whole}[kind]
    found = match_patients(data, ["clinical", "rna"], FEATURES, None)
    assert found.modalities == ("clinical", "rna")
    assert {name: list(found.table(name)) for name in found.tables} == FEATURES
    assert found.table("clinical").to_numpy().tolist() == [[50, 5], [70, 7]]
    assert found.table("rna").to_numpy().tolist() == [[1, 2, 3], [10, 20, 30]]


def test_tables_are_scaled_by_the_training_patients(tables):
    training = pd.DataFrame({"A": [0.0, 4.0], "B": [0.0, 4.0], "C": [0.0, 4.0]}, ["t1", "t2"])
    scaler = Standardizer().fit(Cohort({"rna": training}))
    found = match_patients({"rna": tables["rna"]}, ["rna"], FEATURES, scaler)
    expected = scaler.transform(Cohort({"rna": tables["rna"][["A", "B", "C"]]}))
    np.testing.assert_allclose(found.table("rna"), expected.table("rna"), rtol=0, atol=0)
    assert found.table("rna").to_numpy()[0].tolist() == [-0.5, 0, 0.5]  # mean 2, deviation 2


def test_what_is_no_table_stays_as_the_cohort_has_it(tables):
    bag = PatchBag(torch.ones(2, 3), torch.zeros(2, 2), torch.ones(2, dtype=torch.bool))
    cohort = Cohort({**tables, "slide": {"p2": bag}})
    found = match_patients(cohort, ["slide", "rna"], {"rna": ["C", "A"]}, None)
    assert found.modalities == ("slide", "rna")
    assert found.modality("slide") is cohort.modality("slide")
    assert found.table("rna").to_numpy().tolist() == [[3, 1], [30, 10]]


def test_data_that_a_model_cannot_take_are_refused(tables):
    def refused(data, message, modalities=("clinical", "rna"), features=FEATURES):
        with pytest.raises(ValueError, match=f"^{message}$"):
            match_patients(data, modalities, features, None)

    refused([tables], "expected a Cohort, a DataFrame or one per modality by name, got list")
    refused({"x": tables["rna"]}, r"expected some of the modalities \['clinical', 'rna'\], got \['x'\]")
    refused(
        tables,
        "modality 'rna': expected a model with names of its features, got one without; "
        "pass `features=` when it is wrapped",
        features={"clinical": ["age"]},
    )
    stranger = Cohort({**tables, "x": pd.DataFrame({"x": [1.0]}, ["p3"])})
    with pytest.warns(
        UserWarning, match="^patient 'p3': none of the model's features is known: the prediction"
    ):
        assert match_patients(stranger, ["clinical", "rna"], FEATURES, None).missing().loc["p3"].all()
