"""Missing modalities, measured on two small cohorts, and what is hidden and filled by hand."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from healnet.training import Recipe

sys.path.append(str(Path(__file__).parents[2] / "examples"))
import compare
import missing


@pytest.mark.slow
def test_missing_modalities_by_share_place_and_way(run, capsys):
    output = run(missing, "--cohorts", "aaaa", "--quick")
    results = pd.read_csv(output / "missing.csv")
    assert list(results.columns) == ["cohort", "fold", "way", "place", "share", "c_index"]
    counted = results[results["way"] == "healnet"].groupby(["place", "share"]).size()
    assert counted.to_dict() == {(place, share): 2 for place in missing.PLACES for share in (0.0, 0.5, 0.9)}
    nothing_hidden = results[results["share"] == 0].groupby(["fold", "way"])["c_index"].nunique()
    assert (nothing_hidden == 1).all()  # the three places are one experiment there
    assert (output / "missing.png").read_bytes().startswith(b"\x89PNG")
    assert "zeros" in capsys.readouterr().out


def test_what_is_hidden_grows_with_the_share_and_leaves_everybody_something(folder):
    plan = compare.Plan(Recipe(), 1, 0, tables=folder, splits=folder, clinical=("age", "is_female"))
    cohort, _ = compare.load(plan, "aaaa")
    some, most = (missing.hidden(cohort, share, 7).missing() for share in (0.5, 0.9))
    assert not cohort.missing().any(axis=None)
    assert (most | ~some).all(axis=None)
    assert not most.all(axis=1).any()
    assert some.mean().between(0.3, 0.7).all()
    assert missing.hidden(cohort, 0.0, 7).missing().equals(cohort.missing())
    seen, (new,) = missing.prepared(
        "training means", missing.hidden(cohort, 0.5, 7), [missing.hidden(cohort, 0.9, 8)]
    )
    column = missing.hidden(cohort, 0.5, 7).table("rna").iloc[:, 0]
    filled = new.table("rna").iloc[:, 0]
    gone = missing.hidden(cohort, 0.9, 8).missing()["rna"].to_numpy()
    np.testing.assert_allclose(filled[gone], column.mean())
    assert not seen.missing().any(axis=None)
    assert len(missing.prepared("complete patients", missing.hidden(cohort, 0.5, 7), [])[0]) < 10
