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

    In evaluation mode, whatever mode a model is in. Patients are read in batches of 64, once for all models.
    """
    models = list(models)
    if not len(cohort):
        raise ValueError("expected at least one patient, got none")
    data = CohortDataset(cohort, dtype=next(models[0].parameters()).dtype)
    outputs: list[list[Tensor]] = [[] for _ in models]
    for start in range(0, len(cohort), _AT_ONCE):
        batch = data.batch(np.arange(start, min(start + _AT_ONCE, len(cohort))))
        for found, model in zip(outputs, models, strict=True):
            with evaluating(model):
                output = model(batch.to(next(model.parameters()).device).inputs)
                found.append(output.cpu().double())  # the device may have no float64
    return [torch.cat(found) for found in outputs]
