import functools
import re
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch

from healnet.data.modalities.values import Values
from healnet.inputs import Masked

PATIENTS = pd.Index(["p0", "p1", "p2"], dtype=object)


class Pair(NamedTuple):
    values: torch.Tensor
    mask: torch.Tensor


def test_arrays_become_float32_tensors_in_the_patients_order():
    values = Values.of("ct", {"p2": np.ones((2, 1), np.int16), "p0": torch.zeros(2, 1)}, PATIENTS)
    assert values.missing().tolist() == [False, True, False]
    assert values.entries[2].dtype == torch.float32
    assert values.alike
    assert (str(values), values.width) == ("2", None)
    assert values.take(np.array([2])).missing().tolist() == [False]


def test_a_function_makes_no_promise_about_shape():
    values = Values.of("ct", {"p0": lambda: np.zeros((2, 1)), "p1": np.zeros((2, 1))}, PATIENTS)
    assert not values.alike


def test_what_a_function_reads_is_checked_when_it_is_read():
    function = functools.partial(np.full, (2, 1), np.nan)
    read = Values.of("ct", {"p1": function}, PATIENTS)
    message = (
        "modality 'ct', patient 'p1': expected finite values, got nan; what is missing is masked, or left out"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read.entries[1]()


def test_a_mask_may_hide_what_is_not_finite():
    hidden = Masked(torch.tensor([[1.0], [torch.nan]]), torch.tensor([True, False]))
    channels_first = Masked(hidden.values.T, hidden.mask)
    assert Values.of("ct", {"p1": hidden, "p2": channels_first}, PATIENTS).missing().tolist() == [
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            "scan.nii",
            "modality 'ct', patient 'p1': expected an array, a tensor, a NamedTuple of tensors with a mask, "
            "or a function that reads one, got str",
        ),
        (
            Pair(torch.zeros(2), None),
            "modality 'ct', patient 'p1': expected an array, a tensor, a NamedTuple of tensors with a mask, "
            "or a function that reads one, got Pair",
        ),
        (np.array(["a"]), "modality 'ct', patient 'p1': expected an array of numbers, got <U1"),
        (
            np.array([1.0, np.nan]),
            "modality 'ct', patient 'p1': expected finite values, got nan; what is missing is masked, or left out",
        ),
        (
            Pair(torch.tensor([torch.inf]), torch.tensor([True])),
            "modality 'ct', patient 'p1': expected finite values, got inf; what is missing is masked, or left out",
        ),
    ],
)
def test_what_cannot_be_an_entry_is_refused_by_name(entry, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Values.of("ct", {"p1": entry}, PATIENTS)


def test_arrays_of_several_numbers_of_axes_are_refused():
    entries = {"p1": np.zeros((3, 4, 1)), "p2": np.zeros((3, 4))}
    with pytest.raises(
        ValueError, match=r"^modality 'ct': expected arrays of one number of axes, got 2 and 3$"
    ):
        Values.of("ct", entries, pd.Index(["p1", "p2"]))


def test_a_modality_of_nobody_is_refused():
    with pytest.raises(ValueError, match=r"^modality 'ct': none of the patients has it$"):
        Values.of("ct", {}, PATIENTS)
