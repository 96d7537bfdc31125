"""HEALNet with scikit-learn's interface and scikit-survival's conventions: `HEALNetSurvivalAnalysis`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from sksurv.functions import StepFunction

from healnet.data import Cohort
from healnet.data.checks import check_target
from healnet.survival import SurvivalTarget, concordance
from healnet.training import Recipe, fit_ensemble

__all__ = ["HEALNetSurvivalAnalysis"]


class HEALNetSurvivalAnalysis(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Cox model over several tables with gaps, for `cross_val_score`, `GridSearchCV` and `Pipeline`.

    What `healnet.training.fit_ensemble` trains, whose settings are the parameters here. X is a `Cohort`, with slides or
    anything else in it, or one table whose columns belong to several modalities. Missing values are NaN and need no
    imputation; a modality that a patient lacks is a row of NaN in all of its columns. Scaling is part of the model.

    Args:
        modalities: Name -> columns of a DataFrame, or positions of an array's. Columns in none are not used. Left out,
            columns named `rna:TP53` belong to rna, as `Cohort.to_frame` names them; without such names all are one table.
        random_state: Random seed; an int gives the same model again.
        device: Device to train and predict on.
        verbose: Whether to show a progress bar.
        members, epochs, batch_size, learning_rate, weight_decay, modality_dropout, input_dropout, narrow, tokens,
            feature_tokens, depth, num_latents, latent_dim, num_heads, self_attention, ff_mult, max_patches, strata,
            horizon, standardize, clip: Settings of `healnet.training.Recipe`.

    Attributes:
        model_: The fitted `healnet.training.TrainedModel`, to save, or to explain.
        unique_times_: 0 and the training patients' event times, ascending, where curves have steps.
        n_features_in_: Number of columns; not after a fit to a `Cohort`.
        feature_names_in_: Names of the columns, after a fit to a DataFrame.

    Example:
        >>> from sklearn.model_selection import cross_val_score
        >>> from healnet.datasets import load_mini_acc
        >>> cohort = load_mini_acc().select(["clinical", "rna"])
        >>> X, y = cohort.to_frame(), cohort.target.to_structured()
        >>> estimator = HEALNetSurvivalAnalysis(members=1, epochs=3).fit(X, y)
        >>> estimator.predict(X).shape
        (92,)
        >>> bool(estimator.predict_survival_function(X[:1])[0](365) > 0.5)
        True
        >>> cross_val_score(estimator, cohort, y, cv=cohort.folds(3)).shape
        (3,)
    """

    def __init__(
        self,
        modalities: Mapping[str, Sequence[Any]] | None = None,
        *,
        members: int = 4,
        epochs: int = 15,
        batch_size: int | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.3,
        modality_dropout: float = 0.3,
        input_dropout: float = 0.5,
        narrow: int = 0,
        tokens: int = 4,
        feature_tokens: tuple[str, ...] = (),
        depth: int = 2,
        num_latents: int = 8,
        latent_dim: int = 32,
        num_heads: int = 1,
        self_attention: int = 0,
        ff_mult: int = 1,
        max_patches: int | None = None,
        strata: str | None = None,
        horizon: float | None = None,
        standardize: Literal["mean", "median", "rank"] = "mean",
        clip: float | None = None,
        random_state: Any = 0,
        device: torch.device | str = "cpu",
        verbose: bool = False,
    ) -> None:
        self.modalities = modalities
        self.members = members
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.modality_dropout = modality_dropout
        self.input_dropout = input_dropout
        self.narrow = narrow
        self.tokens = tokens
        self.feature_tokens = feature_tokens
        self.depth = depth
        self.num_latents = num_latents
        self.latent_dim = latent_dim
        self.num_heads = num_heads
        self.self_attention = self_attention
        self.ff_mult = ff_mult
        self.max_patches = max_patches
        self.strata = strata
        self.horizon = horizon
        self.standardize = standardize
        self.clip = clip
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> HEALNetSurvivalAnalysis:
        """Train on these patients.

        Args:
            X: Cohort, DataFrame or array of n patients.
            y: Structured array (n,) of event (bool) and time, scikit-survival's, or a SurvivalTarget. A cohort with outcomes
                needs none.

        Raises:
            ValueError: Outcomes of another kind or number, or of patients in another order; no event; columns that are not
                numbers, that have numbers as names, or only some of which have a modality in their name.
        """
        cohort = self._cohort(X, reset=True)
        target = _outcomes(X, y)
        # A table's rows have lost their ids.
        cohort = cohort.with_target(target if isinstance(X, Cohort) else target.without_patients())
        recipe = Recipe(**{field.name: getattr(self, field.name) for field in fields(Recipe)})
        seed = self.random_state
        if not isinstance(seed, int | np.integer):
            seed = check_random_state(seed).randint(2**31 - 1)
        with _progress_bar(recipe.members * recipe.epochs, self.verbose) as progress:
            self.model_ = fit_ensemble(cohort, recipe, int(seed), device=self.device, progress=progress)
        steps = target.time[target.event]
        self.unique_times_ = np.unique(np.append(0.0, steps))
        return self

    def predict(self, X: Any) -> NDArray[np.float32]:
        """Risk per patient, (n,), larger = worse."""
        check_is_fitted(self, "model_")
        return self.model_.predict(self._cohort(X)).to_numpy(np.float32)  # what the networks compute in

    def predict_survival_function(self, X: Any, return_array: bool = False) -> NDArray[Any]:
        """Probability of surviving beyond each time.

        Args:
            X: As for `fit`.
            return_array: Whether to return (n, t) probabilities at `unique_times_`.

        Returns:
            (n,) scikit-survival's StepFunction of each patient, or the array.
        """
        check_is_fitted(self, "model_")
        survival = self.model_.survival(self._cohort(X), self.unique_times_).to_numpy()
        return survival if return_array else self._steps(survival)

    def predict_cumulative_hazard_function(self, X: Any, return_array: bool = False) -> NDArray[Any]:
        """Cumulative hazard, -log of the survival function: StepFunctions, or (n, t) at `unique_times_`."""
        survival = self.predict_survival_function(X, return_array=True)
        # A curve that reached 0 has an infinite hazard, which no step function holds.
        hazard = -np.log(np.clip(survival, np.finfo(np.float64).tiny, None))
        return hazard if return_array else self._steps(hazard)

    def score(self, X: Any, y: Any = None) -> float:
        """Harrell's C of the predicted risks.

        Args:
            X: As for `fit`.
            y: As for `fit`.

        Raises:
            ValueError: As `fit`.
        """
        return concordance(self.predict(X), _outcomes(X, y))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.target_tags.required = True
        tags.non_deterministic = not isinstance(self.random_state, int | np.integer)
        return tags

    def _steps(self, values: NDArray[np.float64]) -> NDArray[Any]:
        steps = np.empty(len(values), dtype=object)
        for i, row in enumerate(values):
            steps[i] = StepFunction(self.unique_times_, row)
        return steps

    def _cohort(self, X: Any, reset: bool = False) -> Cohort:
        """The patients of a table as a cohort; a cohort as it is."""
        if isinstance(X, Cohort):
            if reset:  # of a fit to a table before
                for name in ("n_features_in_", "feature_names_in_"):
                    self.__dict__.pop(name, None)
            return X
        by_name = isinstance(X, pd.DataFrame)
        if by_name:
            _check_names(X.columns)
        if reset or hasattr(self, "n_features_in_"):
            values = validate_data(self, X, dtype=np.float64, ensure_all_finite="allow-nan", reset=reset)
            # scikit-learn warns where one of fit and predict has names, and goes by position.
            names = list(getattr(self, "feature_names_in_", range(values.shape[1])))
        else:  # after a fit to a cohort
            values = check_array(X, dtype=np.float64, ensure_all_finite="allow-nan")
            names = list(X.columns) if by_name else list(range(values.shape[1]))
        patients = [str(i) for i in range(len(values))]
        frame = pd.DataFrame(values, patients)
        tables = {}
        for modality, columns in self._groups(names).items():
            absent = [column for column in columns if column not in names]
            if absent or not columns:
                raise ValueError(f"modality {modality!r}: expected columns of X, got {absent[:3]}")
            # As in a cohort: TP53, not rna:TP53.
            short = [str(column).removeprefix(f"{modality}:") for column in columns]
            tables[modality] = frame[[names.index(column) for column in columns]].set_axis(short, axis=1)
        return Cohort(tables, None, patients)

    def _groups(self, names: list[Any]) -> dict[str, list[Any]]:
        if self.modalities is not None:
            if not isinstance(self.modalities, Mapping) or any(
                isinstance(c, str) for c in self.modalities.values()
            ):
                raise ValueError(
                    f"expected modalities as a mapping from name to a list of columns, got {self.modalities!r}"
                )
            return {name: list(columns) for name, columns in self.modalities.items()}
        bare = [name for name in names if not isinstance(name, str) or ":" not in name]
        if len(bare) == len(names):
            return {"table": names}
        if bare:
            raise ValueError(
                f"expected all columns named as modality:feature or none, got {bare[0]!r} beside others; "
                "pass `modalities` to say which are whose"
            )
        groups: dict[str, list[Any]] = {}
        for name in names:
            groups.setdefault(name.split(":", 1)[0], []).append(name)
        return groups


@contextmanager
def _progress_bar(total: int, show: bool) -> Iterator[Callable[[float], None] | None]:
    if not show:
        yield None
        return
    from tqdm.auto import tqdm  # here, for in a notebook without widgets its import warns

    with tqdm(total=total, unit="epoch") as bar:

        def progress(loss: float) -> None:
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update()

        yield progress


def _check_names(columns: pd.Index) -> None:
    """Refuse names that are no text, other than 0, 1, 2, ...: scikit-learn ignores them, and takes columns by position."""
    strange = [name for name in columns if not isinstance(name, str)]
    if strange and not columns.equals(pd.RangeIndex(len(columns))):
        raise ValueError(
            f"expected names of columns as text, got {strange[0]} ({len(strange)} of {len(columns)} are none); "
            "X.set_axis(X.columns.astype(str), axis=1) makes them text"
        )


def _outcomes(X: Any, y: Any) -> SurvivalTarget:
    """The outcomes of the patients of X, in their order where they tell whose they are."""
    target = X.target if y is None and isinstance(X, Cohort) else _target(y)
    if isinstance(X, Cohort):
        check_target(target, X.patients)
    elif isinstance(X, pd.DataFrame) and not X.index.equals(pd.RangeIndex(len(X))):
        check_target(target, X.index.astype(str))
    return target


def _target(y: ArrayLike | SurvivalTarget | None) -> SurvivalTarget:
    if isinstance(y, SurvivalTarget):
        return y
    if y is None:
        raise ValueError("requires y to be passed, but the target y is None")
    if not isinstance(y, np.ndarray) or y.dtype.names is None:
        raise ValueError(
            "expected y as scikit-survival's structured array of event and time, or a SurvivalTarget, got "
            f"{type(y).__name__}"
        )
    return SurvivalTarget.from_structured(y)
