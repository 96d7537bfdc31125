"""`healnet.survival` imports fast: the packages that only metrics and pictures need are imported when used."""

import subprocess
import sys

HEAVY = ["h5py", "openslide", "pandas", "matplotlib", "sksurv", "sklearn", "scipy", "tqdm"]


def test_targets_losses_and_curves_run_without_them():
    code = f"""
import sys
for name in {HEAVY!r}:
    sys.modules[name] = None
import numpy as np, torch
import healnet.survival.plots
from healnet.survival import *
target = SurvivalTarget([1, 2, 3], [True, False, True])
bins = TimeBins.fit(target.time, target.event, num_bins=2)
logits = torch.zeros(3, 2)
discrete_nll(logits, bins.transform(target.time), target.event)
cox_nll(logits[:, 0], target.time, target.event)
survival_function(logits, bins).median()
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
