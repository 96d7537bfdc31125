"""A folder of small cohorts in the published layout, for the examples that take one."""

import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from healnet.training import Recipe

sys.path.append(str(Path(__file__).parents[2] / "examples"))


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Two cohorts of 40 patients, two folds each."""
    folder = tmp_path_factory.mktemp("tcga")
    rng = np.random.default_rng(0)
    for name in ("aaaa", "bbbb"):
        n, risk = 40, rng.normal(size=40)
        ids = [f"TCGA-{name}-{i:02d}" for i in range(n)]
        genes = {
            f"G{j}{suffix}": rng.normal(size=n) + risk
            for j in range(4)
            for suffix in ("_rnaseq", "_cnv", "_mut")
        }
        table = pd.DataFrame(
            {
                "case_id": ids,
                "slide_id": [f"{patient}-01Z.svs" for patient in ids],
                "age": 60 + 5 * risk,
                "is_female": rng.integers(0, 2, n),
                "survival_months": rng.exponential(20 * np.exp(-risk)).round(2) + 0.01,
                "censorship": (np.arange(n) % 3 == 0).astype(int),
                **genes,
            }
        )
        table.to_csv(folder / f"tcga_{name}_all_clean.csv.zip", index=False)
        (folder / f"tcga_{name}").mkdir()
        for fold in range(2):
            sides = {"train": ids[1 - fold :: 2], "val": ids[fold::2]}
            pd.DataFrame(sides).to_csv(folder / f"tcga_{name}" / f"splits_{fold}.csv")
        (folder / "features" / f"tcga_{name}").mkdir(parents=True)
        for patient in ids[2:]:  # two patients have no slide
            with h5py.File(folder / "features" / f"tcga_{name}" / f"{patient}-01Z.h5", "w") as file:
                count = int(rng.integers(3, 9))
                file["features"] = rng.normal(size=(count, 6)).astype(np.float32)
                file["coords"] = rng.integers(0, 5000, (count, 2))
    return folder


@pytest.fixture
def run(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("compare.TCGA_RECIPE", Recipe(members=1, epochs=3, batch_size=16))

    def call(module, *args):
        common = ["--tables", folder, "--splits", folder, "--output", tmp_path / "out"]
        monkeypatch.setattr(sys, "argv", ["example", *map(str, [*common, *args])])
        module.main()
        return tmp_path / "out"

    return call
