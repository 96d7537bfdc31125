"""Tokens that are made in pieces each time they are read: a `TokenStream` is the `Tokens` of a `Stream`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from healnet.encoders.base import ModalityEncoder
from healnet.encoders.encode import encode
from healnet.nn.chunked_attention import current_autocast
from healnet.nn.streamed_attention import Walk
from healnet.nn.token_shards import TokenShards
from healnet.streams import DIGEST, Block, Stream
from healnet.tokens import Tokens

__all__ = ["TokenStream", "encode_streams"]


class TokenStream:
    """The tokens of one streamed modality, made anew by the encoder on every pass, one patient and one block at a time.

    Args:
        name: Name of the modality, for errors.
        encoder: Encoder of the modality; it must implement `encode_block`.
        stream: Input of the modality.
        shards: Processes that have the other parts of the stream.

    Attributes:
        present: (b,) bool, who has a real token, in any process.
        parameters: Weights of the encoder that need a gradient.

    Raises:
        ValueError: The parts of the processes are not those of one stream; the same on every process.
    """

    def __init__(
        self, name: str, encoder: nn.Module, stream: Stream, shards: TokenShards | None = None
    ) -> None:
        self.name = name
        assert isinstance(encoder, ModalityEncoder)
        self.encoder = encoder
        self.stream = stream
        self.shards = shards
        self.present = stream.present
        if shards is not None:
            self._check_parts(shards)
            self.present = shards.maximum(self.present.to(torch.uint8)).bool()
        self.parameters = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
        self._autocast = current_autocast(stream.device.type)
        # Dropout inside the encoder drops the same features on every pass, as it does where tokens are made once.
        self._random = torch.get_rng_state() if encoder.training else None
        if self._random is not None:
            torch.rand(())  # so that the next forward pass starts from another state

    def __len__(self) -> int:
        return len(self.stream)

    def _check_parts(self, shards: TokenShards) -> None:
        """Refuse what has gaps or repeats, and other data: positions would be silently wrong."""
        patients = self.stream.patients
        read = [0 if p is None else sum(map(_elements, p.blocks())) for p in patients]
        sizes = [0 if p is None else math.prod(p.sizes) for p in patients]
        digests = [(0, 0) if p is None else p.digests() for p in patients]
        has = [p is not None for p in patients]
        own = [list(column) for column in zip(*digests, strict=True)]
        facts = torch.tensor([read, sizes, has, *own], device=self.stream.device)
        largest = shards.maximum(facts).tolist()
        for patient, (elements, wholes, have, part, whole) in enumerate(
            zip(*shards.total(facts).tolist(), strict=True)
        ):
            size, one = largest[1][patient], largest[4][patient]
            complete = part % DIGEST == one and whole == one * shards.size
            if not have or (complete and have == shards.size):
                continue
            raise ValueError(
                f"modality {self.name!r}: expected every process's own part of the same pieces of patient {patient}, "
                f"such as stream.part(rank, {shards.size}), got {elements} elements in all parts of {have} wholes, "
                f"the largest of {size}"
                + (", some of them twice" if elements == size == wholes // have else "")
            )

    def blocks(self, patient: int, differentiable: bool = False) -> Iterator[tuple[Block, Tensor, Tokens]]:
        """One pass over a patient's data: each block's raw numbers, and its `Tokens` as a batch of one.

        Args:
            patient: Position of the patient.
            differentiable: Whether tokens have a graph that leads to the raw numbers.

        Raises:
            ValueError: The encoder does not work block by block, or refuses what it gets.
        """
        pieces = self.stream.patients[patient]
        if pieces is None:
            return
        with nullcontext() if self._random is None else torch.random.fork_rng():
            if self._random is not None:
                torch.set_rng_state(self._random)
            try:
                for block, values, mask in pieces.walk():
                    with _graph() if differentiable else nullcontext():
                        values = values.to(self.stream.device, non_blocking=True)
                        mask = None if mask is None else mask.to(self.stream.device, non_blocking=True)
                        if differentiable:
                            dtype = values.dtype if values.is_floating_point() else torch.get_default_dtype()
                            values = values.detach().to(dtype, copy=True).requires_grad_()
                        with self._autocast():
                            tokens = self.encoder.encode_block(pieces, block, values, mask)
                    yield block, values, tokens
            except ValueError as error:
                raise ValueError(f"modality {self.name!r}: {error}") from error

    def walk(self, patient: int, dtype: torch.dtype) -> Walk | None:
        """Return the passes over standardized tokens that `streamed_attention` makes; None for an absent patient."""
        if self.stream.patients[patient] is None:
            return None

        def walk() -> Iterator[tuple[Tensor, Tensor | None]]:
            for _, _, tokens in self.blocks(patient):
                yield tokens.standardized(dtype), tokens.mask

        return walk


def encode_streams(
    encoders: nn.ModuleDict,
    inputs: Mapping[str, Any],
    in_memory: nn.ModuleDict | None = None,
    shards: TokenShards | None = None,
) -> dict[str, Tokens | TokenStream]:
    """The tokens of every modality that is there, in the order of the encoders; of a `Stream` a `TokenStream`.

    Args:
        encoders: `ModalityEncoder` per modality.
        inputs: Input of each encoder.
        in_memory: Encoders of what is not a `Stream`; by default the same.
        shards: Processes that have the other parts of the inputs.

    Raises:
        ValueError: As `encode`; streams of another number of patients; as `TokenStream`.
    """
    given: object = inputs
    if not isinstance(given, Mapping):
        return dict(encode(encoders, inputs))  # which refuses them
    streams = {name: x for name, x in inputs.items() if isinstance(x, Stream)}
    memory = {name: None if name in streams else x for name, x in inputs.items()}
    whole = encode(encoders if in_memory is None else in_memory, memory)
    tokens: dict[str, Tokens | TokenStream] = {}
    for name, encoder in encoders.items():
        if name in streams:
            tokens[name] = TokenStream(name, encoder, streams[name], shards)
        elif name in whole:
            found = whole[name]
            tokens[name] = found if shards is None else Tokens(found.values, found.mask, shards)
    sizes = {name: len(x) if isinstance(x, TokenStream) else len(x.values) for name, x in tokens.items()}
    for name, size in sizes.items():
        first = next(iter(sizes))
        if size != sizes[first]:
            raise ValueError(
                f"modality {name!r}: expected a batch of {sizes[first]} patients as in modality {first!r}, got {size}"
            )
    return tokens


def _elements(block: Block) -> int:
    return math.prod(part.stop - part.start for part in block)


@contextmanager
def _graph() -> Iterator[None]:
    with torch.inference_mode(False), torch.enable_grad():
        yield
