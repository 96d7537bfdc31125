"""The one number per patient that every score explains: given as `risk`, or read from what the model declares."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from healnet.survival import risk_score

__all__ = ["Risk", "quantity_name", "resolve_risk", "risk_of", "warn_if_coarse"]

Risk = Callable[[Any], Tensor]
"""A function from the model's output to one number per patient (b,). Scores say what raises and what lowers it."""

_QUANTITIES = {
    "cox": "log hazard",
    "risk": "risk",
    "discrete": "risk score",
    "classes": "log-probability of the predicted class",
    "value": "predicted value",
}


def resolve_risk(model: object, inputs: Mapping[str, Any], risk: Risk | None) -> Risk:
    """The function that turns an output of the model into one number per patient.

    A given `risk` is used as it is. Without one, ``model.output`` says what the output means: "cox" gives the log hazard,
    "discrete" `healnet.survival.risk_score`, "value" and "risk" (a `healnet.training.TrainedModel`) the single output, and
    "classes" the log-probability of each patient's predicted class. That class is the one predicted from all of `inputs`,
    whatever is hidden or moved later.

    Args:
        model: Model to explain, in evaluation mode.
        inputs: Whole inputs of the patients; a later output may hold them several times over, in this order.
        risk: Function of the output, or None.

    Raises:
        ValueError: Neither a risk nor a declared output; an output that does not fit its declaration; from the function
            that is returned, a risk that is not one number per patient.
    """
    if risk is not None:
        given = risk
        return lambda output: _one_number(given(output), _patients(output))
    declared = getattr(model, "output", None)
    if declared is None:
        raise ValueError(
            "expected a model that declares what its output means, such as HEALNet(..., output='cox'), or a risk, "
            "such as risk=lambda output: output[:, 0] for one number per patient; got neither"
        )
    if declared not in _QUANTITIES:
        raise ValueError(f"expected model.output to be one of {list(_QUANTITIES)}, got {declared!r}")
    if declared == "classes":
        with torch.no_grad():
            predicted = _logits(model(inputs), declared).argmax(dim=1)  # type: ignore[operator]

        def log_probability(output: Any) -> Tensor:
            scores = _logits(output, declared).log_softmax(dim=1)
            column = predicted.repeat(len(scores) // len(predicted)).unsqueeze(1)
            return scores.gather(1, column).squeeze(1)

        return log_probability
    if declared == "discrete":
        return lambda output: risk_score(_logits(output, declared))
    return lambda output: _single(output, declared)


def risk_of(model: Callable[[Mapping[str, Any]], Any], inputs: Mapping[str, Any], risk: Risk) -> Tensor:
    """(b,) the risk of each patient, without a graph."""
    with torch.no_grad():
        return risk(model(inputs))


def warn_if_coarse(risks: Tensor) -> None:
    """Warn where risks that are subtracted from each other are in half precision, called by what the user calls.

    bfloat16 has 8 bits: what one gene or patch changes is lost in their rounding.
    """
    if risks.dtype in (torch.float16, torch.bfloat16):
        warnings.warn(
            f"differences of risks in {risks.dtype} are mostly rounding: explain outside autocast, with a model in float32",
            stacklevel=3,
        )


def quantity_name(model: object, risk: Risk | None) -> str:
    """Name of the explained number on an axis or in a report: "log hazard" of a Cox model, "risk" of a given one."""
    declared = getattr(model, "output", None)
    return "risk" if risk is not None else _QUANTITIES.get(str(declared), "risk")


def _patients(output: Any) -> int | None:
    """Number of patients in an output, None where no tensor says it."""
    parts = (
        output.values()
        if isinstance(output, Mapping)
        else output
        if isinstance(output, tuple | list)
        else [output]
    )
    return next((len(part) for part in parts if isinstance(part, Tensor) and part.dim()), None)


def _one_number(value: Any, patients: int | None) -> Tensor:
    if not isinstance(value, Tensor) or value.dim() != 1:
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"expected risk(output) to give one number per patient (b,), got {got}")
    if patients is not None and len(value) != patients:
        raise ValueError(
            f"expected risk(output) to give one number per patient, {patients} of them, got {len(value)}: "
            "output[:, 0] is the first number of each patient, output[0] all numbers of the first"
        )
    return value


def _single(output: Any, declared: str) -> Tensor:
    value = _tensor(output, declared)
    if value.dim() == 2 and value.shape[1] == 1:
        return value[:, 0]
    if value.dim() == 1:
        return value
    raise ValueError(
        f"expected an output (b, 1) or (b,) of a model with output={declared!r}, got {tuple(value.shape)}"
    )


def _logits(output: Any, declared: str) -> Tensor:
    value = _tensor(output, declared)
    if value.dim() < 2 or (declared == "classes" and (value.dim() != 2 or value.shape[1] < 2)):
        raise ValueError(
            f"expected logits (b, k) of a model with output={declared!r}, got {tuple(value.shape)}"
        )
    return value


def _tensor(output: Any, declared: str) -> Tensor:
    """The output, where it is one tensor; a head that returns several says by `risk` which of them is meant."""
    if isinstance(output, Tensor):
        return output
    part = f"output[{next(iter(output), 'name')!r}]" if isinstance(output, Mapping) else "output[0]"
    raise ValueError(
        f"expected a model with output={declared!r} to return a tensor, got {type(output).__name__}: "
        f"pass the number to explain, such as risk=lambda output: {part}[:, 0]"
    )
