"""Which features go along with what the model says: activation patterns, steady where features are correlated."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["activation_pattern"]


def activation_pattern(values: Tensor, outcome: Tensor, mask: Tensor | None = None) -> Tensor:
    """The correlation of each feature with what the model makes of the patients (Haufe et al. 2014, NeuroImage 87:96).

    Among twenty genes that rise and fall together a model may use any three: its gradients then say which three, and other
    folds say others. The pattern says what all twenty have in common with the model's answer, and is steady. It does not
    say that the model reads a gene: a gene it never saw can correlate.

    Args:
        values: the features of the patients.
        outcome: what the model makes of each: the risk, or a modality's `shapley_modalities(...).values` column, which
            leaves the other modalities out.
        mask: bool, True = real. Correlations are over real cells.

    Shape:
        values, mask: (b, f); outcome: (b,); returns (f,) in [-1, 1], positive where more of it goes with a higher risk; 0
        for a feature or an outcome that does not vary.

    Raises:
        ValueError: shapes that do not fit.

    Example:
        >>> genes = torch.tensor([[1.0, 5.0, 0.0], [2.0, 3.0, 0.0], [3.0, 1.0, 0.0]])
        >>> activation_pattern(genes, torch.tensor([0.1, 0.2, 0.3]))
        tensor([ 1., -1.,  0.])
    """
    if (
        values.dim() != 2
        or outcome.shape != values.shape[:1]
        or (mask is not None and mask.shape != values.shape)
    ):
        shapes = [tuple(values.shape), tuple(outcome.shape), None if mask is None else tuple(mask.shape)]
        raise ValueError(f"expected values (b, f), outcome (b,) and mask (b, f), got {shapes}")
    real = torch.ones_like(values, dtype=torch.bool) if mask is None else mask
    x, y = (
        values.double().masked_fill(~real, 0),
        outcome.double().unsqueeze(1).expand(values.shape).masked_fill(~real, 0),
    )
    count = real.sum(dim=0).clamp(min=1)
    x, y = ((v - v.sum(dim=0) / count).masked_fill(~real, 0) for v in (x, y))
    size = (x.square().sum(dim=0) * y.square().sum(dim=0)).sqrt()
    # A column of equal numbers keeps the rounding of its mean: that is no variation.
    flat = (
        size
        <= 1e-12
        * (values.double().square().masked_fill(~real, 0).sum(dim=0) * outcome.double().square().sum()).sqrt()
    )
    found = (x * y).sum(dim=0) / torch.where(flat, 1, size)
    return found.masked_fill(flat, 0).to(values.dtype)
