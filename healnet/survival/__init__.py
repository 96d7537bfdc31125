"""Survival analysis from raw model outputs: targets, time bins, losses, metrics and curves.

Conventions: `event` is True where the event was observed; `time` >= 0 in any unit; larger risk = worse; losses take raw
outputs (`logits`, `log_hazard`), never probabilities. Metrics and fitted objects take the prediction first, then the
target: `concordance(risk, target)`. One value per patient may have shape (n,) or (n, 1). scikit-survival, scipy and
pandas are imported when first used, to keep the import fast; pictures are in `healnet.survival.plots`.
"""

from healnet.survival.baseline import BreslowBaseline
from healnet.survival.bins import TimeBins
from healnet.survival.curve import SurvivalCurve
from healnet.survival.losses.cox import cox_nll
from healnet.survival.losses.cox_accumulator import CoxAccumulator
from healnet.survival.losses.discrete import (
    cumulative_incidence,
    discrete_cross_entropy,
    discrete_nll,
    hazard,
    risk_score,
    survival_function,
)
from healnet.survival.losses.distributed_cox import distributed_cox_nll
from healnet.survival.losses.ranking import ranking_loss
from healnet.survival.losses.weibull import weibull_nll, weibull_parameters, weibull_survival
from healnet.survival.metrics.calibration import Calibration, DCalibration, calibration_groups, d_calibration
from healnet.survival.metrics.comparison import Comparison, compare
from healnet.survival.metrics.evaluation import concordance, evaluate
from healnet.survival.metrics.significance import (
    FoldComparison,
    PermutationTest,
    compare_cohorts,
    compare_folds,
    permutation_test,
)
from healnet.survival.nonparametric import KaplanMeier, kaplan_meier, logrank_p
from healnet.survival.sampler import balanced_event_sampler
from healnet.survival.target import SurvivalTarget

__all__ = [
    "BreslowBaseline",
    "Calibration",
    "Comparison",
    "CoxAccumulator",
    "DCalibration",
    "FoldComparison",
    "KaplanMeier",
    "PermutationTest",
    "SurvivalCurve",
    "SurvivalTarget",
    "TimeBins",
    "balanced_event_sampler",
    "calibration_groups",
    "compare",
    "compare_cohorts",
    "compare_folds",
    "concordance",
    "cox_nll",
    "cumulative_incidence",
    "d_calibration",
    "discrete_cross_entropy",
    "discrete_nll",
    "distributed_cox_nll",
    "evaluate",
    "hazard",
    "kaplan_meier",
    "logrank_p",
    "permutation_test",
    "ranking_loss",
    "risk_score",
    "survival_function",
    "weibull_nll",
    "weibull_parameters",
    "weibull_survival",
]
