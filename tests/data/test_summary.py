import math
from html.parser import HTMLParser

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import KaplanMeierFitter

from healnet.data import Cohort, CohortDataset
from healnet.data.summary import median_follow_up, patterns
from healnet.survival.target import SurvivalTarget


def test_follow_up_by_hand():
    # Censored at 2 (of 3 at risk: 2/3), then at 3 (of 2: 1/3): one half is passed at 3.
    assert median_follow_up(SurvivalTarget([1.0, 2.0, 3.0, 4.0], [True, False, False, False])) == 3.0
    # Exactly one half is reached, not only passed.
    assert median_follow_up(SurvivalTarget([1.0, 2.0, 3.0, 4.0], [False] * 4)) == 2.0
    assert math.isnan(median_follow_up(SurvivalTarget([1.0, 2.0], [True, True])))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=1, max_size=19))
def test_follow_up_reads_the_curve_of_lifelines_under_ties(rows):
    time, event = (np.array(column) for column in zip(*rows, strict=True))
    curve = KaplanMeierFitter().fit(time, ~event).survival_function_.iloc[:, 0]
    # lifelines sums logarithms: one half comes out a little above or below.
    reached = curve.index[curve <= 0.5 + 1e-9]
    ours = median_follow_up(SurvivalTarget(time, event))
    assert ours == reached[0] if len(reached) else math.isnan(ours)


def test_patterns_come_most_frequent_first_and_do_not_depend_on_the_order_of_patients():
    missing = pd.DataFrame({"a": [True, False, False, False], "b": [False, False, True, False]})
    expected = {"a": [True, True, False], "b": [True, False, True], "patients": [2, 1, 1]}
    assert patterns(missing).to_dict("list") == expected
    assert patterns(missing.iloc[::-1]).to_dict("list") == expected


def test_the_summary_of_a_cohort():
    index = ["p1", "p2", "p3"]
    tables = {
        "age": pd.DataFrame({"age": [50.0, np.nan, 70.0], "sex": [1.0, 0.0, 1.0]}, index=index),
        "rna": pd.DataFrame({"g": [1.0]}, index=["p2"]),
    }
    cohort = Cohort(tables, SurvivalTarget([2.0, 3.0, 5.0], [True, False, False]), index)
    assert repr(cohort.summary()).split("\n") == [
        "3 patients, 1 events (33%), median follow-up 3 (reverse Kaplan-Meier)",
        "",
        "modality  patients  features  missing cells",
        "age              3         2      1 (16.7%)",
        "rna              1         1              0",
        "",
        "patients  age  rna",
        "       2    ●    ·",
        "       1    ●    ●",
    ]
    assert "median follow-up not reached" in str(cohort[[0]].summary())


class Cells(HTMLParser):
    """The text of every cell, in the order of the page."""

    def __init__(self):
        super().__init__()
        self.texts, self.open = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in ("br", "style"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append(data.strip())


def texts(html):
    cells = Cells()
    cells.feed(html)
    assert not cells.open
    return cells.texts


def test_a_notebook_shows_a_cohort_and_a_batch_as_tables():
    rna = pd.DataFrame({"g": [1.0, np.nan]}, index=["p1", "p2"])
    age = pd.DataFrame({"age": [50.0, 60.0]}, index=["p1", "p2"])
    target = SurvivalTarget([2.0, 3.0], [True, False])
    cohort = Cohort({"<age>": age, "rna": rna}, target, ["p1", "p2"], labels={"grade": ["a & b", "c"]})
    assert texts(cohort._repr_html_()) == [
        "2 patients, 1 events (50%), median follow-up 3 (reverse Kaplan-Meier)",
        "label grade: 1 a & b, 1 c",
        *["modality", "patients", "features", "missing cells"],
        *["<age>", "2", "1", "0", "rna", "1", "1", "0"],
        *["patients", "<age>", "rna", "1", "●", "●", "1", "●", "·"],
    ]
    assert texts(CohortDataset(cohort).batch()._repr_html_()) == [
        "Batch(2 patients, <age> 2x1, rna 2x1 (1 have it), time, event, label grade)",
        *["shape", "type"],
        *["<age>", "2x1", "torch.float32", "rna", "2x1 (1 have it)", "torch.float32"],
        *["time", "2", "torch.float64", "event", "2", "torch.bool", "label grade", "2", "torch.int64"],
    ]
