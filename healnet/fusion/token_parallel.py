"""Encode a batch whose tokens are split over processes: `encode_shards`.

With `HEALNet(..., token_group=...)` every process is given the same patients, in the same order, and of each modality its
own part of their elements:

- bags of patches and time series: any part, positions are those within the whole; evenly spaced series without times in the
  order of the processes;
- grids: a part of the first axis, in the order of the processes, all but the last a multiple of the encoder's `patch`;
- networks of your own (`LearnedEncoder`): the elements that its own tokens are made of;
- tables and graphs: the whole, on every process. Repeated tokens change no weighted mean, and gradients count them once;
- a `Stream`: `stream.part(rank, number of processes)`, every n-th block of the same pieces.

A process without tokens of a modality gives an input without elements, (b, 0, ...). Every process returns the same output,
and after the backward pass the same gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from healnet.encoders.base import ModalityEncoder
from healnet.fusion.token_stream import TokenStream, encode_streams
from healnet.inputs import batch_size
from healnet.nn.token_shards import TokenShards
from healnet.streams import Stream
from healnet.tokens import Tokens

__all__ = ["encode_shards", "same_random_numbers"]


def encode_shards(
    encoders: nn.ModuleDict, inputs: Mapping[str, Any], shards: TokenShards, device: torch.device
) -> dict[str, Tokens | TokenStream]:
    """The tokens of this process's part of every modality, with what is known about those of the others.

    Args:
        encoders: `ModalityEncoder` per modality.
        inputs: This process's part of each modality; every process has the same patients, in the same order.
        shards: The processes.
        device: Device of messages.

    Raises:
        ValueError: As `encode_streams`; a modality that some processes have and others leave out, or that is a `Stream` on
            some; other numbers of patients. But for errors of an encoder, the same on every process.
    """
    names = list(encoders)
    own_inputs = [inputs.get(name) if isinstance(inputs, Mapping) else None for name in names]
    given = [[x is not None for x in own_inputs], [isinstance(x, Stream) for x in own_inputs]]
    size = batch_size(inputs) if any(given[0]) else -1
    present, streamed = shards.total(torch.tensor(given, device=device, dtype=torch.long)).tolist()
    sizes = shards.sizes(size, device)
    for name, count, streams in zip(names, present, streamed, strict=True):
        if count not in (0, shards.size):
            raise ValueError(
                f"modality {name!r}: expected an input of every process of the token group, without elements where it has "
                f"no tokens, got one of {count} of {shards.size} processes"
            )
        if streams not in (0, shards.size):
            raise ValueError(
                f"modality {name!r}: expected a Stream of every process of the token group or of none, "
                f"got one of {streams} of {shards.size} processes"
            )
    if len(set(sizes)) != 1:
        raise ValueError(
            f"expected the same patients in every process of the token group, got {sizes} of them"
        )
    own = {name: _Shared(encoder, shards) for name, encoder in encoders.items()}
    with _numbers_of_its_own(shards, device) if encoders.training else nullcontext():
        return encode_streams(encoders, inputs, nn.ModuleDict(own), shards)


@contextmanager
def same_random_numbers(shards: TokenShards, device: torch.device) -> Iterator[None]:
    """A context in which dropout of what every process computes is the same in all of them."""
    seed = int(shards.maximum(torch.randint(2**62, (), device=device)))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextmanager
def _numbers_of_its_own(shards: TokenShards, device: torch.device) -> Iterator[None]:
    seed = int(torch.randint(2**62, ()))
    with torch.random.fork_rng():
        torch.manual_seed(seed + shards.rank)
        yield


class _Shared(ModalityEncoder):
    """An encoder whose weights get the gradients of all processes' tokens."""

    def __init__(self, encoder: nn.Module, shards: TokenShards) -> None:
        super().__init__()
        assert isinstance(encoder, ModalityEncoder)
        self.encoder, self.shards, self.token_dim = encoder, shards, encoder.token_dim

    def forward(self, inputs: Any) -> Tokens:
        named = {name: p for name, p in self.encoder.named_parameters() if p.requires_grad}
        shared = dict(zip(named, self.shards.shared(list(named.values())), strict=True))
        options = {"shards": self.shards} if self.encoder.splits else {}
        return functional_call(self.encoder, shared, (inputs,), options)
