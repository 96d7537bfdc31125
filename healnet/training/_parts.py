"""Checks that the parts of a trained model fit each other: `check_parts`, `check_card`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["check_card", "check_parts"]


def check_parts(model: Any) -> None:
    """Refuse parts that would change a prediction without a word, or be left unused.

    Args:
        model: `TrainedModel` with its parts as attributes.

    Raises:
        ValueError: Parts that do not fit; see `TrainedModel`.
    """
    first, kind = model.models[0], model.kind
    if kind is None:
        raise ValueError('expected a declared output, as HEALNet(..., output="cox"), got None')
    names = _encoders(first)
    for other in model.models:
        if getattr(other, "output", None) not in (kind, None) or _encoders(other) != names:
            raise ValueError("expected models of one architecture, got others")
    for name in ("centers", "scales", "baselines"):
        given = getattr(model, name)
        if len(given) != len(model.models) and not (name == "baselines" and not given):
            raise ValueError(f"expected {name} of {len(model.models)} models, got {len(given)}")
    if not (np.isfinite(model.centers).all() and np.isfinite(model.scales).all() and min(model.scales) > 0):
        raise ValueError("expected finite centers and positive scales")
    unknown = [name for name in model.features if name not in model.modalities]
    if unknown:
        raise ValueError(f"unknown modality {unknown[0]!r}: the model's modalities are {model.modalities}")
    if kind in ("classes", "value") and any((*model.centers, *(s - 1 for s in model.scales))):
        raise ValueError(f"expected centers and scales of risks alone, got some with {kind!r}")
    if model.baselines and kind != "cox":
        raise ValueError(f"expected baselines with the output 'cox' alone, got some with {kind!r}")
    if (model.bins is not None) != (kind == "discrete"):
        raise ValueError(
            f"expected time bins with the output 'discrete' alone, got {model.bins} with {kind!r}"
        )
    arguments = getattr(first, "arguments", None)
    outputs = arguments["out_dim"] if isinstance(arguments, dict) else None
    bins = None if model.bins is None else model.bins.num_bins
    for what, number in (("time bins", bins), ("classes", len(model.classes) or None)):
        if None not in (number, outputs) and number != outputs:
            raise ValueError(f"expected {what} for the {outputs} outputs of the model, got {number}")
    if len(set(model.classes)) < len(model.classes) or (model.classes and kind != "classes"):
        raise ValueError(
            f"expected different classes, with the output 'classes', got {model.classes} with {kind!r}"
        )
    for name, own in model.features.items():
        width = (
            getattr(first.get_submodule(f"encoders.{name}"), "num_features", None) if name in names else None
        )
        if len(set(own)) < len(own) or width not in (None, len(own)):
            raise ValueError(
                f"modality {name!r}: expected the name of each feature of its encoder ({width or 'any number'}) once, "
                f"got {len(own)} names, {len(set(own))} of them different"
            )


def check_card(card: Mapping[str, Any]) -> None:
    """Refuse what a model card has no place for.

    Raises:
        ValueError: Something else than data, metrics and limits, or a metric that is no finite number.
    """
    strange = set(card) - {"data", "metrics", "limits"}
    if strange:
        raise ValueError(f"expected data, metrics and limits for the model card, got {sorted(strange)}")
    for name, value in card["metrics"].items():
        if not isinstance(value, int | float) or not np.isfinite(value):
            raise ValueError(f"metric {name!r}: expected a finite number, got {value!r}")


def _encoders(network: object) -> list[str]:
    """Names of a network's modalities, in order; none where it does not tell."""
    return list(getattr(network, "encoders", ()))
