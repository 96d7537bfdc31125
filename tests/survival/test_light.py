"""The room opens without the packages that only metrics and pictures need, and says which one is missing."""

import subprocess
import sys

HEAVY = ["h5py", "openslide", "pandas", "matplotlib", "sksurv", "sklearn", "scipy", "tqdm"]


def test_losses_curves_and_pictures_import_without_them_and_metrics_name_what_they_need():
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
for use in (
    lambda: concordance([1, 2, 3], target),
    lambda: compare([1, 2, 3], [1, 2, 3], target),
    lambda: kaplan_meier(target),
    lambda: logrank_p(target, [0, 0, 1]),
    lambda: d_calibration([0.5], [True]),
    lambda: evaluate(target, target, [1, 2, 3]),
):
    try:
        use()
    except ImportError as error:
        print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    missing = "survival metrics need scikit-survival: pip install scikit-survival"
    assert result.stdout.splitlines() == [
        missing,
        missing,
        missing,
        missing,
        "d_calibration needs scipy, which comes with scikit-survival: pip install scikit-survival",
        "evaluate needs pandas: pip install pandas",
    ]
