"""What every explanation asks of a model: one risk per patient, and to hold still while it is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from healnet.survival import risk_score

__all__ = ["Risk", "default_risk", "evaluating", "risk_of"]

Risk = Callable[[Tensor], Tensor]


def default_risk(output: Tensor) -> Tensor:
    """The log hazard of a Cox model (b, 1) or (b,); `healnet.survival.risk_score` of discrete logits (b, k).

    Example:
        >>> default_risk(torch.tensor([[0.5], [2.0]]))
        tensor([0.5000, 2.0000])
    """
    if output.dim() == 1:
        return output
    return output[:, 0] if output.dim() == 2 and output.shape[1] == 1 else risk_score(output)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every part of the model in evaluation mode, and afterwards each as it was: dropout would blur what is compared."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def risk_of(model: Callable[[Mapping[str, Any]], Tensor], inputs: Mapping[str, Any], risk: Risk) -> Tensor:
    """(b,) the risk of each patient, without a graph.

    Raises:
        ValueError: a risk that is not one number per patient.
    """
    with torch.no_grad():
        value = risk(model(inputs))
    return checked(value)


def checked(value: Tensor) -> Tensor:
    """The risk, once it is known to be one number per patient."""
    if value.dim() != 1:
        raise ValueError(
            f"expected risk(output) to give one number per patient (b,), got shape {tuple(value.shape)}"
        )
    return value
