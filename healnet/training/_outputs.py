"""Raw outputs of models for whole cohorts, in batches: `raw_outputs`."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from healnet._evaluation import evaluating
from healnet.data import Cohort, CohortDataset

__all__ = ["raw_outputs"]

_AT_ONCE = 64  # patients: bounds the memory that bags of patches take


@torch.no_grad()
def raw_outputs(models: Iterable[nn.Module], cohort: Cohort) -> list[Tensor]:
    """Each model's raw outputs (n, out_dim) of a standardized cohort, from all patches, in float64 on the CPU.

    In evaluation mode, whatever mode a model is in. Patients are read in batches of 64, once for all models. Those who have
    nothing that the models take get the output of one of them: in a batch it would differ in its last bit by the row, and
    metrics would order patients who are equal.
    """
    models = list(models)
    if not len(cohort):
        raise ValueError("expected at least one patient, got none")
    data = CohortDataset(cohort, dtype=next(models[0].parameters()).dtype)
    nothing = cohort.missing().all(axis=1).to_numpy()
    have, lack = np.flatnonzero(~nothing), np.flatnonzero(nothing)
    batches = [have[start : start + _AT_ONCE] for start in range(0, len(have), _AT_ONCE)]
    parts: list[list[Tensor]] = [[] for _ in models]
    for rows in [*batches, lack[:1]] if len(lack) else batches:
        batch = data.batch(rows)
        for found, model in zip(parts, models, strict=True):
            with evaluating(model):
                output = model(batch.to(next(model.parameters()).device).inputs)
                found.append(output.cpu().double())  # the device may have no float64
    # Where each patient's row is among those that were computed; those who have nothing share the last.
    place = np.empty(len(cohort), dtype=np.int64)
    place[have], place[lack] = np.arange(len(have)), len(have)
    return [torch.cat(found)[place] for found in parts]
