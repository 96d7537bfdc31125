"""Classes and survival in one loop: its parts, and a quick run as a user would."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from healnet.data import CohortDataset
from healnet.survival import cox_nll

EXAMPLE = Path(__file__).parents[2] / "examples" / "two_tasks.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("two_tasks", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_loss_is_the_sum_of_both_and_unknown_grades_have_no_part_in_theirs(example):
    batch = CohortDataset(example.load()).batch()
    grade, unknown = batch.labels["grade"], batch.labels["grade"] < 0
    assert sorted(grade.unique().tolist()) == [-100, 0, 1, 2]
    assert int(unknown.sum()) == 2
    torch.manual_seed(0)
    outputs = {"grade": torch.randn(198, 3), "survival": torch.randn(198, 1)}
    expected = F.cross_entropy(outputs["grade"][~unknown], grade[~unknown])
    survival = cox_nll(outputs["survival"], batch.time, batch.event)
    torch.testing.assert_close(example.loss_of(outputs, batch), expected + survival)
    torch.testing.assert_close(example.loss_of({"survival": outputs["survival"]}, batch), survival)


@pytest.mark.slow
def test_quick_run(tmp_path):
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "--quick", "--output", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "two_tasks.csv")
    assert table["model"].tolist() == ["grade alone", "survival alone", "both"] * 2
    answered = table.set_index("model").notna()
    assert not answered.loc["grade alone", "survival, C"].any()
    assert not answered.loc["survival alone", "grade, AUC"].any()
    both = table[table["model"] == "both"]
    assert both["grade, AUC"].min() > 0.6  # five folds gave 0.725 (0.041)
    assert both["survival, C"].mean() > 0.55
    assert "grade, AUC" in done.stdout
