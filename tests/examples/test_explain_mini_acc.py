"""The explanation of mini-ACC, run whole on a cohort and with settings small enough for a test."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from healnet.data import Cohort
from healnet.survival import SurvivalTarget

EXAMPLE = Path(__file__).parents[2] / "examples" / "explain_mini_acc.py"
GENES = ["TP53", "FOXM1", "CDK1", "ATM", "KRAS", "CDH1"]
PICTURES = ["genes.png", "gene_sets.png", "modalities.png", "faithfulness.png"]


def small_cohort(n=40):
    """FOXM1 and CDK1 tell the risk; every fourth patient lacks the protein table."""
    rng = np.random.default_rng(0)
    risk = rng.normal(size=n)
    ids = [f"p<{i}>" for i in range(n)]
    tables = {"clinical": ["age"], "rna": GENES, "protein": ["a", "b"]}
    tables = {k: pd.DataFrame(rng.normal(size=(n, len(v))), ids, v) for k, v in tables.items()}
    tables["rna"][["FOXM1", "CDK1"]] += 3 * risk[:, None]
    tables["protein"].iloc[::4] = np.nan
    return Cohort(tables, SurvivalTarget(rng.exponential(np.exp(-2 * risk)), np.arange(n) % 5 > 0), ids)


@pytest.fixture
def example(monkeypatch):
    spec = importlib.util.spec_from_file_location("explain_mini_acc", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "load_mini_acc", small_cohort)
    return module


@pytest.mark.slow
def test_it_ranks_the_genes_and_draws_everything(example, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["explain_mini_acc.py", "--quick", "--output", str(tmp_path / "new")])
    example.main()
    ranks = pd.read_csv(tmp_path / "new" / "genes.csv", index_col="gene")
    assert sorted(ranks.index) == sorted(GENES)
    assert {"gradient x input", "occlusion", "activation pattern", "attention (a token each)"} <= set(ranks)
    assert sorted(ranks.loc[["FOXM1", "CDK1"], "activation pattern"]) == [1, 2]
    for name in PICTURES:
        assert (tmp_path / "new" / name).read_bytes().startswith(b"\x89PNG")
    (report,) = (tmp_path / "new").glob("report_*.html")
    assert report.name.startswith("report_p%3C")
    assert "<bdi>p&lt;" in report.read_text(encoding="utf-8")
    printed = capsys.readouterr().out
    assert "Ranks among 6 RNA genes" in printed
    assert "FOXM1" in printed
