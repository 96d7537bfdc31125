"""The scores of held-out patients that `compare.py` prints, and the points of their survival curves that they need.

`pan_cancer.py` keeps these points in its `risks.csv`, so that `compare.py --risks` scores its models as it does all others.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from healnet.data import Cohort
from healnet.survival import SurvivalTarget, d_calibration, evaluate

METRICS = {"c_index": "harrell_c", "uno": "uno_c", "ibs": "integrated_brier"}
# Columns of the grid's times; the last ones are empty if it is shorter.
POINTS = [f"survival_{i}" for i in range(18)]
OWN_TIME = "survival_own"


def grid_of(seen: SurvivalTarget, new: SurvivalTarget) -> np.ndarray:
    """(t,) times of the Brier scores: quantiles of the training patients' events, within the new ones' follow-up."""
    grid = np.unique(np.quantile(seen.time[seen.event], np.linspace(0.05, 0.9, len(POINTS))))
    return grid[(grid > new.time.min()) & (grid < new.time.max())]


def predictions(
    risk: np.ndarray, survival: Callable[[np.ndarray], np.ndarray], seen: Cohort, new: Cohort
) -> pd.DataFrame:
    """A row per new patient: id, risk, the chance to survive beyond each time of the grid and the patient's own time.

    `survival(times)` gives (n, t) probabilities.
    """
    curves = survival(grid_of(seen.target, new.target))
    times, own = np.unique(new.target.time, return_inverse=True)
    table = pd.DataFrame(curves, columns=POINTS[: curves.shape[1]]).reindex(columns=POINTS)
    table[OWN_TIME] = survival(times)[np.arange(len(new)), own]
    return pd.DataFrame({"patient": new.patients, "risk": risk}).join(table.round(6))


def score(table: pd.DataFrame, seen: Cohort, new: Cohort) -> dict[str, float]:
    """The metrics of `predictions`, whose rows are in the order of the new patients."""
    grid = grid_of(seen.target, new.target)
    curves = table[POINTS[: len(grid)]].to_numpy()
    found = evaluate(table["risk"].to_numpy(), new.target, seen.target, survival=curves, times=grid)
    value = found.drop_duplicates("metric").set_index("metric")["value"]
    own = table[OWN_TIME].to_numpy().clip(0, 1)
    return {
        **{name: float(value[metric]) for name, metric in METRICS.items()},
        "d_calibration_p": d_calibration(own, new.target).p_value,
    }
