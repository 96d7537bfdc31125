"""Survival analysis from raw model outputs: targets, time bins, losses, metrics and curves.

Conventions: `event` is True where the event was observed; `time` >= 0 in any unit; larger risk = worse;
losses take raw outputs (`logits`, `log_hazard`), never probabilities. Metrics need scikit-survival and pandas, pictures need
matplotlib; both are imported when first used.
"""

from healnet.survival.bins import TimeBins
from healnet.survival.cox import cox_nll
from healnet.survival.discrete import discrete_nll, hazard, risk_score, survival_function
from healnet.survival.metrics import concordance, evaluate
from healnet.survival.target import SurvivalTarget

__all__ = [
    "SurvivalTarget",
    "TimeBins",
    "concordance",
    "cox_nll",
    "discrete_nll",
    "evaluate",
    "hazard",
    "risk_score",
    "survival_function",
]
