"""Log hazards of discrete time from raw logits, for one kind of event or for several that compete."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["log_hazards"]


def log_hazards(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log probabilities, given no event before a bin, of none in it and of each cause in it.

    One cause has the logistic hazard; r causes share a softmax with "no event", whose logit is 0 (Tutz and
    Schmid 2016, Modeling Discrete Time-to-Event Data, eq. 8.3), which for r = 1 is the same.

    Shape:
        logits: (b, k) or (b, r, k), checked.
        returns: (b, k) and (b, r, k)
    """
    if logits.dim() == 2:
        return F.logsigmoid(-logits), F.logsigmoid(logits).unsqueeze(1)
    parts = torch.log_softmax(F.pad(logits, (0, 0, 1, 0)), dim=1)  # (b, 1 + r, k)
    return parts[:, 0], parts[:, 1:]
