"""Tokens that are made in pieces each time they are read: `TokenStream`, the `Tokens` of a `Stream`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from healnet.encoders.base import ModalityEncoder
from healnet.nn.streamed_attention import Walk
from healnet.streams import Block, Stream
from healnet.tokens import Tokens

__all__ = ["TokenStream"]


class TokenStream:
    """The tokens of one streamed modality, made anew by the encoder on every pass, one patient and one block at a time.

    Args:
        name: Name of the modality, for errors.
        encoder: Encoder of the modality; it must implement `encode_block`.
        stream: Input of the modality.

    Attributes:
        present: (b,) bool, who has a real token.
        parameters: Weights of the encoder that need a gradient.
    """

    def __init__(self, name: str, encoder: nn.Module, stream: Stream) -> None:
        self.name = name
        assert isinstance(encoder, ModalityEncoder)
        self.encoder = encoder
        self.stream = stream
        self.present = stream.present
        self.parameters = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
        # Dropout inside the encoder drops the same features on every pass, as it does where tokens are made once.
        self._random = torch.get_rng_state() if encoder.training else None
        if self._random is not None:
            torch.rand(())  # so that the next forward pass starts from another state

    def __len__(self) -> int:
        return len(self.stream)

    def blocks(self, patient: int) -> Iterator[tuple[Block, Tokens]]:
        """One pass over a patient's tokens, as `Tokens` of a batch of one per block.

        Raises:
            ValueError: the encoder does not work block by block, or refuses what it gets.
        """
        pieces = self.stream.patients[patient]
        if pieces is None:
            return
        with nullcontext() if self._random is None else torch.random.fork_rng():
            if self._random is not None:
                torch.set_rng_state(self._random)
            try:
                for block, values, mask in pieces.walk():
                    values = values.to(self.stream.device, non_blocking=True)
                    mask = None if mask is None else mask.to(self.stream.device, non_blocking=True)
                    tokens = self.encoder.encode_block(pieces, block, values, mask)
                    yield block, tokens
            except ValueError as error:
                raise ValueError(f"modality {self.name!r}: {error}") from error

    def elements(self, patient: int) -> int:
        """Number of elements of a patient's data, real or not."""
        pieces = self.stream.patients[patient]
        return 0 if pieces is None else math.prod(pieces.sizes)

    def walk(self, patient: int, dtype: torch.dtype) -> Walk | None:
        """What `healnet.nn.streamed_attention` takes: passes over standardized tokens; None for an absent patient."""
        if self.stream.patients[patient] is None:
            return None

        def walk() -> Iterator[tuple[Tensor, Tensor | None]]:
            for _, tokens in self.blocks(patient):
                yield tokens.standardized(dtype), tokens.mask

        return walk
