"""Train HEALNet on a cohort and predict new patients: `Recipe`, `fit_ensemble` and `Ensemble`.

The loop of the examples and of `healnet.HEALNetSurvivalAnalysis`. It is short on purpose: copy it where you need another
loss, sampler or schedule.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from healnet._evaluation import evaluating
from healnet.data import Batch, Cohort, CohortDataset, ModalityDropout, Standardizer, collate
from healnet.encoders import ModalityEncoder, OmicEncoder, PatchEncoder
from healnet.fusion import HEALNet
from healnet.inputs import take
from healnet.survival import BreslowBaseline, SurvivalTarget, cox_nll

__all__ = ["Ensemble", "Recipe", "build_model", "fit_ensemble", "raw_outputs", "train_model"]

_PREDICTED_AT_ONCE = 64  # patients: bounds the memory that bags of patches take
_ROUNDING = (
    1e-5  # relative to log hazards: equal patients in batches of other sizes differ by less in float32
)


@dataclass(frozen=True)
class Recipe:
    """Settings of a model and its training, with defaults for cohorts of about a hundred patients.

    Chosen by cross-validation inside the training folds of mini-ACC: small cohorts want few steps, strong dropout and an
    average over seeds; sizes hardly matter.

    Attributes:
        members: Number of models that differ by their seed; their risks are averaged.
        epochs: Passes over the cohort.
        batch_size: Patients per step; None for the whole cohort, so that Cox's risk sets are whole and an epoch is a step.
        learning_rate: Largest learning rate of AdamW; it rises and falls over the steps (one cycle).
        weight_decay: Weight decay of AdamW.
        modality_dropout: Probability of hiding each modality of a patient in training.
        input_dropout: Dropout of the features of tables with more than `narrow` features.
        narrow: Number of features up to which all are kept: a few clinical ones are all needed.
        tokens: Learned tokens per table.
        feature_tokens: Tables in which every feature is a token of its own instead, so that attention ranks features.
        depth: Number of fusion layers.
        num_latents: Latents per patient.
        latent_dim: Width of a latent.
        num_heads: Attention heads.
        self_attention: Self-attention blocks after each modality.
        ff_mult: Hidden width of a feed-forward over `latent_dim`.
        max_patches: Patches drawn of each patient's slides whenever a training batch is read; None for all.
        strata: Name of the cohort's label, such as the cancer or the center, within which alone Cox's loss compares
            patients; None compares all.
        horizon: Time after which follow-up counts as censored in training (`SurvivalTarget.censored_at`), in the unit of the
            cohort's times; None for no end. Tables of the diagnosis say little about deaths many years later.
        standardize: Method of `Standardizer`: "mean", "median" or "rank", which suits the long tails of RNA-seq.
        clip: Limit of the standardized values on both sides; None for no limit.
    """

    members: int = 4
    epochs: int = 15
    batch_size: int | None = None
    learning_rate: float = 1e-3
    weight_decay: float = 0.3
    modality_dropout: float = 0.3
    input_dropout: float = 0.5
    narrow: int = 0
    tokens: int = 4
    feature_tokens: tuple[str, ...] = ()
    depth: int = 2
    num_latents: int = 8
    latent_dim: int = 32
    num_heads: int = 1
    self_attention: int = 0
    ff_mult: int = 1
    max_patches: int | None = None
    strata: str | None = None
    horizon: float | None = None
    standardize: Literal["mean", "median", "rank"] = "mean"
    clip: float | None = None

    def __post_init__(self) -> None:
        for name in ("members", "epochs"):
            size = getattr(self, name)
            if size < 1:
                raise ValueError(f"expected {name} of at least 1, got {size}")
        if self.batch_size is not None and self.batch_size < 2:
            raise ValueError(
                f"expected batch_size of at least 2, got {self.batch_size}: Cox's loss compares the patients of a batch"
            )
        names: object = self.feature_tokens
        if isinstance(names, str):  # in which every part of the word would be a name
            raise ValueError(f"expected feature_tokens as a tuple of names, got {names!r}")


@dataclass(frozen=True)
class Ensemble:
    """Trained models whose risks are averaged, with what a new patient's tables go through before.

    Attributes:
        models: The members, in evaluation mode.
        scaler: Standardizer fitted on the training patients.
        centers: Mean log hazard of the training patients under each member.
        scales: Standard deviation of the same, 1 where all are equal but for rounding.
        baselines: Breslow baseline of each member; empty after training with strata, which share none.
    """

    models: tuple[HEALNet, ...]
    scaler: Standardizer
    centers: tuple[float, ...]
    scales: tuple[float, ...]
    baselines: tuple[BreslowBaseline, ...]

    def predict(self, cohort: Cohort) -> NDArray[np.float32]:
        """Risk per patient, (n,), larger = worse: members' log hazards in units of the training patients' spread, averaged.

        Averaging log hazards as they are would weigh members by how far they were trained.

        Raises:
            ValueError: Tables whose columns differ from those of training.
        """
        risks = self._log_hazards(cohort)
        scaled = [(r - c) / s for r, c, s in zip(risks, self.centers, self.scales, strict=True)]
        return np.mean(scaled, axis=0)

    def survival(self, cohort: Cohort, times: ArrayLike) -> NDArray[np.float64]:
        """Probability of surviving beyond each time, (n, t): the mean of the members' curves.

        Args:
            cohort: The n patients.
            times: (t,), in the unit of the training cohort's times.

        Raises:
            ValueError: Tables whose columns differ from those of training; a time that is negative or NaN; an ensemble
                without baselines.
        """
        if not self.baselines:
            raise ValueError(
                "expected a baseline per member, got none: after training with strata fit one per stratum "
                "(healnet.survival.BreslowBaseline)"
            )
        at = np.asarray(times, dtype=np.float64)
        risks = self._log_hazards(cohort)
        curves = [
            b.survival(r.astype(np.float64), at).numpy() for b, r in zip(self.baselines, risks, strict=True)
        ]
        return np.mean(curves, axis=0)

    def _log_hazards(self, cohort: Cohort) -> list[NDArray[np.float32]]:
        if not isinstance(cohort, Cohort):
            raise ValueError(
                f"expected a Cohort, got {type(cohort).__name__}; PretrainedModel.of(ensemble).predict takes tables"
            )
        return [raw[:, 0].numpy() for raw in raw_outputs(self.models, self.scaler.transform(cohort))]


def build_model(cohort: Cohort, recipe: Recipe) -> HEALNet:
    """Learned tokens per table, raw patches of slides, and few latents.

    Raises:
        ValueError: A modality that is neither a table nor slides: it needs an encoder of your choice; a name in
            `feature_tokens` that is no table's.
    """
    unknown = [name for name in recipe.feature_tokens if name not in cohort.tables]
    if unknown:
        raise ValueError(f"expected feature_tokens of the tables {list(cohort.tables)}, got {unknown[0]!r}")
    encoders: dict[str, ModalityEncoder] = {}
    for name in cohort.modalities:
        if name not in cohort.widths:
            raise ValueError(
                f"modality {name!r}: expected a table or slides; for others pass `build` to fit_ensemble"
            )
        width = cohort.widths[name]
        if name in cohort.tables:
            tokens: Literal["features"] | int = "features" if name in recipe.feature_tokens else recipe.tokens
            dropout = recipe.input_dropout if width > recipe.narrow else 0.0
            encoders[name] = OmicEncoder(width, tokens, input_dropout=dropout)
        else:
            encoders[name] = PatchEncoder(width)
    return HEALNet(
        encoders,
        output="cox",
        depth=recipe.depth,
        num_latents=recipe.num_latents,
        latent_dim=recipe.latent_dim,
        num_heads=recipe.num_heads,
        self_attention=recipe.self_attention,
        ff_mult=recipe.ff_mult,
    )


class _TableBatches:
    """Shuffled full batches of rows of tables that are in memory: five times as fast as reading patients one by one."""

    def __init__(self, patients: Batch, size: int) -> None:
        self.patients, self.size = patients, size

    def __len__(self) -> int:
        return len(self.patients.ids) // self.size

    def __iter__(self) -> Iterator[Batch]:
        order = torch.randperm(len(self.patients.ids))
        for rows in order[: len(self) * self.size].split(self.size):
            inputs = {name: take(value, rows) for name, value in self.patients.inputs.items()}
            outcomes = {name: value[rows] for name, value in self.patients.outcomes.items()}
            labels = {name: value[rows] for name, value in self.patients.labels.items()}
            yield Batch(inputs, outcomes, labels, self.patients.ids[rows])


def _ended(target: SurvivalTarget, horizon: float) -> SurvivalTarget:
    """The outcomes that training sees; a horizon in another unit than the times is noticed by the events that it leaves."""
    ended = target.censored_at(horizon)
    events, left = int(target.event.sum()), int(ended.event.sum())
    found = (
        f"{left} of {events} events up to the horizon of {horizon:g}; times go up to {target.time.max():g}"
    )
    if not left:
        raise ValueError(f"expected an event before the horizon, got {found}. Is it in their unit?")
    if 2 * left < events:
        warnings.warn(f"only {found}. Is it in their unit?", UserWarning, stacklevel=3)
    return ended


def train_model(
    model: HEALNet, cohort: Cohort, recipe: Recipe, progress: Callable[[float], None] | None = None
) -> HEALNet:
    """Train with Cox's loss, on the device where the model is. Returns the model in evaluation mode.

    Args:
        model: One output per patient.
        cohort: Training patients, standardized.
        recipe: Settings of the loop.
        progress: Function called with the mean loss after every epoch.

    Raises:
        ValueError: No event before the recipe's horizon.

    Warns:
        UserWarning: A horizon before most events, as one in another unit than the times would be.
    """
    if recipe.horizon is not None:
        cohort = cohort.with_target(_ended(cohort.target, recipe.horizon))
    device = next(model.parameters()).device
    hide = ModalityDropout(recipe.modality_dropout)
    data = CohortDataset(cohort, max_patches=recipe.max_patches)
    loader: Sequence[Batch] | _TableBatches | DataLoader[Batch]
    size = min(recipe.batch_size or len(cohort), len(cohort))
    tables_alone = set(cohort.tables) == set(cohort.modalities)
    if recipe.batch_size is None and (tables_alone or recipe.max_patches is None):
        loader = [data.batch()]  # the same in every epoch
    elif tables_alone:
        loader = _TableBatches(data.batch(), size)
    else:
        loader = DataLoader(data, size, shuffle=True, drop_last=True, collate_fn=collate)
    rate = recipe.learning_rate
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=recipe.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=recipe.epochs * len(loader))
    model.train()
    for _ in range(recipe.epochs):
        losses = []
        for batch in loader:
            batch = batch.to(device)
            strata = None if recipe.strata is None else batch.labels[recipe.strata]
            loss = cox_nll(model(hide(batch.inputs)), batch.time, batch.event, strata=strata)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        if progress is not None:
            progress(float(np.mean(losses)))
    return model.eval()


def fit_ensemble(
    cohort: Cohort,
    recipe: Recipe | None = None,
    seed: int = 0,
    *,
    build: Callable[[Cohort, Recipe], HEALNet] = build_model,
    device: torch.device | str = "cpu",
    progress: Callable[[float], None] | None = None,
) -> Ensemble:
    """Fit the scaler on these patients, and train the members one after another.

    Args:
        cohort: Training patients, as they were read: nothing here sees another patient.
        recipe: Settings; those of `Recipe()` if left out.
        seed: Random seed. Member i of k is trained with `seed * k + i`; torch's global generator is left as it was.
        build: Function that makes an untrained model of one output for the standardized cohort.
        device: Device to train and predict on.
        progress: Function called with the mean loss after every epoch of every member, to advance a bar.

    Raises:
        ValueError: No event among the patients or before the recipe's horizon, a modality that `build` cannot encode, or
            strata that the cohort or some of its patients do not have.

    Warns:
        UserWarning: A horizon before most events, as one in another unit than the times would be.

    Example:
        >>> from healnet.datasets import load_mini_acc
        >>> cohort = load_mini_acc()
        >>> train, test = cohort.folds(5, seed=0)[0]
        >>> ensemble = fit_ensemble(cohort[train], Recipe(members=2, epochs=5))
        >>> ensemble.predict(cohort[test]).shape
        (19,)
        >>> ensemble.survival(cohort[test], [365, 1825]).shape
        (19, 2)
    """
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
    return Ensemble(
        tuple(models),
        scaler,
        centers=tuple(float(risk.mean()) for risk in known),
        scales=tuple(_spread(risk) for risk in known),
        baselines=tuple(BreslowBaseline.fit(risk, cohort.target) for risk in known if recipe.strata is None),
    )


def _spread(risk: NDArray[np.float32]) -> float:
    """Standard deviation; 1 where all are equal but for rounding, which a division by it would blow up."""
    spread = float(risk.std(dtype=np.float64))
    return spread if spread > _ROUNDING * float(np.abs(risk).max()) else 1.0


@torch.no_grad()
def raw_outputs(models: Sequence[HEALNet], cohort: Cohort) -> list[Tensor]:
    """Each model's raw outputs (n, out_dim) of a standardized cohort, from all patches, on the CPU.

    In evaluation mode, whatever mode a model is in. Patients are read in batches of 64, once for all models.
    """
    if not len(cohort):
        raise ValueError("expected at least one patient, got none")
    data = CohortDataset(cohort, dtype=next(models[0].parameters()).dtype)
    outputs: list[list[Tensor]] = [[] for _ in models]
    for start in range(0, len(cohort), _PREDICTED_AT_ONCE):
        batch = data.batch(np.arange(start, min(start + _PREDICTED_AT_ONCE, len(cohort))))
        for found, model in zip(outputs, models, strict=True):
            with evaluating(model):
                output = model(batch.to(next(model.parameters()).device).inputs).cpu()
                # NumPy lacks bfloat16.
                found.append(output.float() if output.itemsize < 4 else output)
    return [torch.cat(found) for found in outputs]
