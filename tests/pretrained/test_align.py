"""Columns of new tables by name: order does not matter, strangers go, gaps are said."""

import re

import numpy as np
import pandas as pd
import pytest

from healnet.pretrained.align import align, split_frame

FEATURES = {"rna": ["TP53", "MYC"], "cnv": ["TP53", "EGFR"]}


def frame(*columns):
    return pd.DataFrame(np.arange(2.0 * len(columns)).reshape(2, -1), ["a", "b"], list(columns))


def test_order_and_strangers():
    table = frame("X", "MYC", "TP53")
    pd.testing.assert_frame_equal(align("rna", table, ["TP53", "MYC"]), table[["TP53", "MYC"]])


def test_gaps_are_missing_and_said():
    with pytest.warns(UserWarning, match=r"^modality 'rna': 1 of 2 features are not in the table .*: 'MYC'$"):
        found = align("rna", frame("TP53"), ["TP53", "MYC"])
    assert found["TP53"].tolist() == [0, 1]
    assert found["MYC"].isna().all()


def test_other_tables_are_refused():
    message = (
        r"^modality 'rna': expected some of the model's features \('TP53', 'MYC'\), got the columns 'A', "
    )
    with pytest.raises(ValueError, match=message):
        align("rna", frame(*"ABCD"), ["TP53", "MYC"])
    with pytest.raises(
        ValueError, match=r"^modality 'rna': expected each column once, got 'TP53' more than once$"
    ):
        align("rna", frame("TP53", "TP53"), ["TP53", "MYC"])


def test_one_table_of_all_modalities():
    table = frame("cnv:TP53", "EGFR", "rna:TP53", "note", "MYC", "other:MYC")
    found = split_frame(table, FEATURES)
    pd.testing.assert_frame_equal(found["rna"], table[["rna:TP53", "MYC"]].set_axis(["TP53", "MYC"], axis=1))
    pd.testing.assert_frame_equal(
        found["cnv"], table[["cnv:TP53", "EGFR"]].set_axis(["TP53", "EGFR"], axis=1)
    )
    message = "none of the features of 'cnv' ('TP53', 'EGFR') is among the columns: missing for every patient"
    for column, cause in (("other", ""), ("egfr", "; some differ in upper and lower case only")):
        with pytest.warns(UserWarning, match=f"^{re.escape(message + cause)}$"):
            assert list(split_frame(frame("MYC", column), FEATURES)) == ["rna"]  # no column of cnv: absent


def test_names_that_say_two_things():
    with pytest.raises(
        ValueError,
        match=r"^column 'TP53' is a feature of several modalities, 'rna', 'cnv': name it 'rna:TP53' and so on$",
    ):
        split_frame(frame("TP53", "MYC"), FEATURES)
    with pytest.raises(
        ValueError, match=r"^modality 'rna': expected feature 'MYC' once, got it in two columns$"
    ):
        split_frame(frame("rna:MYC", "MYC"), FEATURES)
    with pytest.raises(
        ValueError, match=r"^expected some of the model's features \('TP53', 'MYC', 'EGFR'\), got the col"
    ):
        split_frame(frame("A", "B"), FEATURES)
