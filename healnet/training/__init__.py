"""Train a model on a cohort, predict new patients, save and load: `Recipe`, `fit_ensemble` and `TrainedModel`."""

from healnet.training.default_model import build_model
from healnet.training.fit import fit_ensemble
from healnet.training.loop import train_model
from healnet.training.recipe import Recipe
from healnet.training.trained_model import TrainedModel

__all__ = ["Recipe", "TrainedModel", "build_model", "fit_ensemble", "train_model"]
