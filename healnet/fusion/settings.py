"""Settings that the shapes of a model's weights do not fix: stored with the weights, compared when they are loaded.

Eight heads of 16 and four of 32 have weights of one shape, as have two temperatures, two orders of the modalities, two gates
or two scales of positions: such weights load without an error into a model that gives other risks.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor, nn

from healnet.encoders.base import ModalityEncoder
from healnet.fusion.layer import FusionLayer

__all__ = ["check_settings", "settings_of", "settings_tensor"]

Settings = dict[str, dict[str, Any]]

# Of these, a model in evaluation mode does not depend.
_IGNORED = ("training", "inplace", "output")


def settings_of(model: nn.Module) -> Settings:
    """Settings by module: its class, and the numbers, strings and flags, or tuples of them, that it holds by a public name.

    Of encoders, fusion layers, and modules of this package and of `torch.nn`; other modules and dropout are left out. The
    order of a dict's modules, and which modules of a list are one, are settings too.

    Example:
        >>> settings_of(nn.Sequential(nn.LeakyReLU(0.2), nn.Dropout(0.1)))["0"]
        {'class': 'LeakyReLU', 'negative_slope': 0.2}
    """
    found: Settings = {}
    for name, module in model.named_modules():
        kind = type(module)
        known = isinstance(module, ModalityEncoder | FusionLayer) or kind.__module__.startswith(
            ("torch.nn.", "healnet.")
        )
        if not known or "Dropout" in kind.__name__:
            continue
        own: dict[str, Any] = {"class": kind.__name__}
        for key, value in vars(module).items():
            if not key.startswith("_") and key not in _IGNORED and "dropout" not in key and _plain(value):
                own[key] = value
        if isinstance(module, nn.ModuleDict):
            own["order"] = list(module)
        if isinstance(module, nn.ModuleList):
            members = list(module)
            own["same"] = [next(i for i, other in enumerate(members) if other is one) for one in members]
        found[name] = own
    normalized: Settings = json.loads(json.dumps(found))  # tuples as lists, as they come back from a file
    return normalized


def settings_tensor(model: nn.Module) -> Tensor:
    """The settings as bytes of JSON in a uint8 tensor, which every way of storing weights can hold."""
    return torch.tensor(list(json.dumps(settings_of(model)).encode()), dtype=torch.uint8)


def check_settings(model: nn.Module, stored: Any) -> None:
    """Compare the settings that came with weights with those of the model that loads them.

    Settings that one side lacks are not compared: another version may have more of them.

    Raises:
        ValueError: No settings, or others than the model's; the message names the modality, the setting and both values.
    """
    try:
        theirs: Settings = json.loads(bytes(stored.tolist()))
        pairs = [
            (where, theirs[where], ours) for where, ours in settings_of(model).items() if where in theirs
        ]
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"expected the settings of a model as a uint8 tensor of JSON, got {type(stored).__name__}: {error}"
        ) from error
    found = [
        (where, key, old[key], new[key])
        for where, old, new in pairs
        for key in new
        if key in old and old[key] != new[key]
    ]
    if not found:
        return
    where, key, old, new = found[0]
    parts = where.split(".")
    modality = f"modality {parts[1]!r}: " if parts[0] == "encoders" and len(parts) > 1 else ""
    more = ", ".join(".".join(filter(None, (where, key))) for where, key, *_ in found[1:4])
    raise ValueError(
        f"{modality}expected weights of a model with {'.'.join(filter(None, (where, key)))}={new!r}, got {old!r}"
        + (f"; {len(found)} settings differ, also {more}" if more else "")
        + "; these weights belong to another model"
    )


def _plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(_plain(part) for part in value)
    return value is None or isinstance(value, bool | int | float | str)
