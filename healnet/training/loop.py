"""The training loop: short on purpose, to copy where you need another loss, sampler or schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from healnet._warnings import warn
from healnet.data import Batch, Cohort, CohortDataset, ModalityDropout, collate
from healnet.inputs import take
from healnet.survival import SurvivalTarget, cox_nll
from healnet.training.recipe import Recipe

__all__ = ["train_model"]


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
        warn(f"only {found}. Is it in their unit?")
    return ended


def train_model(
    model: nn.Module, cohort: Cohort, recipe: Recipe, progress: Callable[[float], None] | None = None
) -> nn.Module:
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
