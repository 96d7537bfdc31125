"""Train several models on a cohort, as one: `fit_ensemble`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from healnet.data import Cohort, Standardizer
from healnet.survival import BreslowBaseline
from healnet.training._outputs import raw_outputs
from healnet.training.default_model import build_model
from healnet.training.loop import train_model
from healnet.training.recipe import Recipe
from healnet.training.trained_model import TrainedModel

__all__ = ["fit_ensemble"]

# Relative to log hazards: equal patients in batches of other sizes differ by less in float32.
_ROUNDING = 1e-5


def fit_ensemble(
    cohort: Cohort,
    recipe: Recipe | None = None,
    seed: int = 0,
    *,
    build: Callable[[Cohort, Recipe], nn.Module] = build_model,
    device: torch.device | str = "cpu",
    progress: Callable[[float], None] | None = None,
) -> TrainedModel:
    """Fit the scaler on these patients, and train the members one after another.

    Args:
        cohort: Training patients, as they were read: nothing here sees another patient.
        recipe: Settings; those of `Recipe()` if left out.
        seed: Random seed. Member i of k is trained with `seed * k + i`; torch's global generator is left as it was.
        build: Function that makes an untrained model of one output for the standardized cohort.
        device: Device to train and predict on.
        progress: Function called with the mean loss after every epoch of every member, to advance a bar.

    Raises:
        ValueError: Something else than a Cohort; no event among the patients or before the recipe's horizon, a modality
            that `build` cannot encode, or strata that the cohort or some of its patients do not have.

    Warns:
        UserWarning: A horizon before most events, as one in another unit than the times would be.

    Example:
        >>> from healnet.datasets import load_mini_acc
        >>> cohort = load_mini_acc()
        >>> train, test = cohort.folds(5, seed=0)[0]
        >>> model = fit_ensemble(cohort[train], Recipe(members=2, epochs=5))
        >>> model.predict(cohort[test]).shape
        (19,)
        >>> model.survival(cohort[test], [365, 1825]).shape
        (19, 2)
    """
    if not isinstance(cohort, Cohort):
        raise ValueError(
            f"expected a Cohort, got {type(cohort).__name__}: Cohort({{'rna': table}}, target) makes one of tables"
        )
    recipe = Recipe() if recipe is None else recipe
    if not cohort.target.event.any():
        raise ValueError(f"expected at least one observed event, got none in {len(cohort)} training patients")
    if recipe.strata is not None:
        labels = cohort.label_tensors()
        if recipe.strata not in labels:
            raise ValueError(f"expected strata among the labels {list(labels)}, got {recipe.strata!r}")
        strata = labels[recipe.strata]
        unknown = int((strata < 0 if recipe.strata in cohort.classes else strata.isnan()).sum())
        if unknown:  # they would be compared with each other, or with none
            raise ValueError(
                f"label {recipe.strata!r}: expected strata of every patient, got {unknown} without"
            )
    device = torch.device(device)
    scaler = Standardizer(recipe.standardize, recipe.clip).fit(cohort)
    seen = scaler.transform(cohort)
    models = []
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for member in range(recipe.members):
            torch.manual_seed(seed * recipe.members + member)
            models.append(train_model(build(seen, recipe).to(device), seen, recipe, progress))
    known = [raw[:, 0].numpy() for raw in raw_outputs(models, seen)]
    return TrainedModel(
        models,
        output="cox",
        modalities=seen.modalities,
        scaler=scaler,
        centers=[float(risk.mean()) for risk in known],
        scales=[_spread(risk) for risk in known],
        baselines=[BreslowBaseline.fit(risk, cohort.target) for risk in known if recipe.strata is None],
    )


def _spread(risk: NDArray[np.float64]) -> float:
    """Standard deviation; 1 where all are equal but for rounding, which a division by it would blow up."""
    spread = float(risk.std())
    return spread if spread > _ROUNDING * float(np.abs(risk).max()) else 1.0
