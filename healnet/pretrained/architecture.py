"""Describe a HEALNet in plain values and rebuild it from them: `describe`, `rebuild`."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from healnet.encoders import (
    GeneSetEncoder,
    GraphEncoder,
    GridEncoder,
    ModalityEncoder,
    OmicEncoder,
    PatchEncoder,
    SequenceEncoder,
)
from healnet.fusion import HEALNet

__all__ = ["NotDescribableError", "describe", "rebuild"]

_ENCODERS: tuple[type[ModalityEncoder], ...] = (
    GeneSetEncoder,
    GraphEncoder,
    GridEncoder,
    OmicEncoder,
    PatchEncoder,
    SequenceEncoder,
)
# Sizes are compared with the weights before they take memory; layers are objects that must be made first.
_DEEPEST = 1000


class NotDescribableError(ValueError):
    """A model with parts that plain values do not describe; its message says which."""


def describe(model: nn.Module) -> dict[str, Any]:
    """The constructor arguments of a model and its encoders, as what JSON holds.

    An encoder's arguments are read from its attributes of the same names.

    Raises:
        NotDescribableError: A subclass of HEALNet, layers or a head of its own, an encoder that does not keep an argument
            as an attribute, or an argument that JSON cannot hold, such as a module.
    """
    if type(model) is not HEALNet or model.arguments is None:
        kind = (
            type(model).__name__ if type(model) is not HEALNet else "HEALNet with layers or a head of its own"
        )
        raise NotDescribableError(f"the model is a {kind}")
    encoders = {}
    for name, encoder in model.encoders.items():
        kind, arguments = type(encoder).__name__, {}
        for argument in inspect.signature(type(encoder)).parameters:
            if not hasattr(encoder, argument):
                raise NotDescribableError(
                    f"modality {name!r}: its {kind} does not keep the constructor's argument {argument!r} as an attribute"
                )
            arguments[argument] = getattr(encoder, argument)
        try:
            json.dumps(arguments, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise NotDescribableError(
                f"modality {name!r}: an argument of its {kind} is not JSON: {error}"
            ) from error
        encoders[name] = {"class": kind, "arguments": arguments}
    return {"arguments": model.arguments, "encoders": encoders}


def rebuild(description: Mapping[str, Any], encoders: Iterable[type[ModalityEncoder]] = ()) -> HEALNet:
    """An untrained model from what `describe` returned.

    Args:
        description: Plain values; nothing in them is imported or called but the encoders known by name.
        encoders: Classes of encoders beside the library's.

    Raises:
        ValueError: An encoder of an unknown name, more than 1000 layers, an argument that a constructor refuses.
        TypeError: An argument that a constructor does not have.
    """
    depth = description["arguments"]["depth"]
    if not isinstance(depth, int) or depth > _DEEPEST:
        raise ValueError(f"expected a depth of at most {_DEEPEST}, got {depth!r}")
    known = {kind.__name__: kind for kind in (*_ENCODERS, *encoders)}
    built: dict[str, ModalityEncoder] = {}
    for name, part in description["encoders"].items():
        if part["class"] not in known:
            raise ValueError(
                f"modality {name!r}: unknown encoder {part['class']!r}; pass its class as `encoders=[{part['class']}]`"
            )
        arguments = {key: tuple(v) if isinstance(v, list) else v for key, v in part["arguments"].items()}
        built[name] = known[part["class"]](**arguments)
    return HEALNet(built, **description["arguments"])
