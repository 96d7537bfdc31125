"""A small trained ensemble and the raw tables of new patients."""

import numpy as np
import pandas as pd
import pytest

from healnet.data import Cohort
from healnet.survival import SurvivalTarget
from healnet.training import Recipe, fit_ensemble

pytest.importorskip("huggingface_hub", reason="the extra hub is not installed")


def raw_tables(n, seed):
    """Two tables with gaps, far from mean 0 and deviation 1."""
    rng = np.random.default_rng(seed)
    ids = [f"p{seed}-{i}" for i in range(n)]
    tables = {
        "clinical": pd.DataFrame(60 + 9 * rng.normal(size=(n, 3)), ids, ["age", "grade", "size"]),
        "rna": pd.DataFrame(5 + 2 * rng.normal(size=(n, 7)), ids, [f"G{j}" for j in range(7)]),
    }
    tables["rna"].iloc[::4] = np.nan
    tables["clinical"].iloc[1, 1] = np.nan
    return tables


@pytest.fixture(scope="session")
def trained():
    tables = raw_tables(50, 0)
    rng = np.random.default_rng(9)
    risk = (tables["clinical"]["age"] - 60) / 9
    target = SurvivalTarget(rng.exponential(1000 * np.exp(-risk)), np.arange(50) % 3 > 0)
    return fit_ensemble(Cohort(tables, target, tables["rna"].index), Recipe(members=2, epochs=6))


@pytest.fixture
def new_tables():
    return raw_tables(12, 1)
