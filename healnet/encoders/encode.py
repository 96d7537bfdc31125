"""Encode a batch: every modality that is present into `Tokens`, with checks that name the modality."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from healnet.encoders.base import ModalityEncoder
from healnet.tokens import Tokens

__all__ = ["encode", "encoder_dict"]


def encoder_dict(encoders: Mapping[str, ModalityEncoder]) -> nn.ModuleDict:
    """The encoders of a model as one module, in their order.

    Raises:
        ValueError: No encoder, something else than an encoder, or a name that a module cannot have.
    """
    if not encoders:
        raise ValueError("expected at least one encoder, got none")
    for name, encoder in encoders.items():
        if not isinstance(encoder, ModalityEncoder):
            raise ValueError(f"modality {name!r}: expected a ModalityEncoder, got {type(encoder).__name__}")
        if not name or "." in name or hasattr(nn.ModuleDict(), name):
            raise ValueError(
                f"modality {name!r}: expected a name without dots that is not a method of ModuleDict"
            )
    return nn.ModuleDict(encoders)


def encode(encoders: nn.ModuleDict, inputs: Mapping[str, Any]) -> dict[str, Tokens]:
    """The tokens of every modality that is there, in the order of the encoders.

    Args:
        encoders: A `ModalityEncoder` per modality.
        inputs: Input of each encoder; a modality left out or None is absent for the whole batch.

    Raises:
        ValueError: An unknown modality, an input its encoder refuses, an encoder that returns something else than `Tokens`
            of its `token_dim`, or modalities of different batch sizes.
    """
    if not isinstance(inputs, Mapping):
        raise ValueError(f"expected a mapping from modality to input, got {type(inputs).__name__}")
    unknown = [name for name in inputs if name not in encoders]
    if unknown:
        raise ValueError(f"unknown modality {unknown[0]!r}: this model's modalities are {list(encoders)}")
    tokens: dict[str, Tokens] = {}
    for name, encoder in encoders.items():
        if inputs.get(name) is None:
            continue
        try:
            tokens[name] = encoder(inputs[name])
        except ValueError as error:
            raise ValueError(f"modality {name!r}: {error}") from error
        _check(name, encoder, tokens)
    return tokens


def _check(name: str, encoder: nn.Module, tokens: Mapping[str, Tokens]) -> None:
    encoded = tokens[name]
    if not isinstance(encoded, Tokens):
        raise ValueError(
            f"modality {name!r}: expected its encoder to return Tokens, got {type(encoded).__name__}"
        )
    if encoded.values.shape[2] != encoder.token_dim:
        raise ValueError(
            f"modality {name!r}: expected tokens of width {encoder.token_dim} (its encoder's token_dim), "
            f"got {encoded.values.shape[2]}"
        )
    first = next(iter(tokens))
    if len(encoded.values) != len(tokens[first].values):
        raise ValueError(
            f"modality {name!r}: expected a batch of {len(tokens[first].values)} patients as in modality {first!r}, "
            f"got {len(encoded.values)}"
        )
