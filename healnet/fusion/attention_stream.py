"""Attention to a modality that is read in pieces, made again block by block for a trace: `AttentionStream`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from healnet.fusion.token_stream import TokenStream
from healnet.nn.attention_weights import Attended, Keep
from healnet.nn.chunked_attention import Attention, Saved, differentiate, no_autocast
from healnet.streams import Block
from healnet.tokens import Tokens

__all__ = ["AttentionStream"]


class AttentionStream:
    """Attention to one streamed modality in every layer, of which queries and log-sum-exps are kept, and no weights.

    Each iterator below reads the pieces once more, whatever the number of layers, with the weights that the model has then.
    With a `token_group` it reads those of this process.

    Args:
        tokens: The modality.
        keep: Axes that survive the mean over heads and latents, as in `AttentionTrace`.

    Attributes:
        stream: Input of the modality.
        present: (b,) bool, who has a real token.
    """

    def __init__(self, tokens: TokenStream, keep: Keep = "none") -> None:
        self._tokens = tokens
        self._keep: Keep = keep
        self._layers: list[Sequence[Attended | None]] = []
        self._slopes: list[Sequence[Tensor]] | None = None
        self.stream = tokens.stream
        self.present = tokens.present

    def __len__(self) -> int:
        """Number of layers."""
        return len(self._layers)

    def __repr__(self) -> str:
        return f"AttentionStream({self.stream}, {len(self)} layers, keep={self._keep!r})"

    @property
    def num_latents(self) -> int:
        """Number of latents m; 1 where no patient has the modality."""
        rows = [
            one.queries.shape[1] // one.num_heads
            for layer in self._layers
            for one in layer
            if one is not None
        ]
        return max(rows, default=1)

    def add(self, attended: Sequence[Attended | None]) -> None:
        """Record one layer's attention, per patient."""
        self._layers.append(attended)

    def outputs(self) -> list[Tensor]:
        """Outputs of the attention, layer by layer, of the patients who have the modality."""
        return [one.output for layer in self._layers for one in layer if one is not None]

    def detach(self, slopes: Sequence[Tensor] | None = None) -> None:
        """Detach queries and outputs from the autograd graph.

        Args:
            slopes: Gradients of some quantity by each of `outputs()`, which `gradients` and `input_gradients` need.
        """
        if slopes is not None:
            found = iter(slopes)
            self._slopes = [
                [torch.empty(0) if one is None else next(found) for one in layer] for layer in self._layers
            ]
        self._layers = [
            [one and replace(one, queries=one.queries.detach(), output=one.output.detach()) for one in layer]
            for layer in self._layers
        ]

    def weights(self, patient: int = 0) -> Iterator[tuple[Block, Tensor]]:
        """Blocks of a patient's data, each with the attention weights of its tokens: (layers, n), or kept axes before n."""
        layers = [(one, None) for one in self._of(patient)]
        return self._walk(patient, layers)

    def gradients(self, patient: int = 0) -> Iterator[tuple[Block, Tensor]]:
        """The same with each weight times the gradient of the quantity `gradient_of` with respect to it.

        Raises:
            ValueError: A trace made without `gradient_of`.
        """
        return self._walk(patient, list(zip(self._of(patient), self._slopes_of(patient), strict=True)))

    def input_gradients(self, patient: int = 0) -> Iterator[tuple[Block, Tensor, Tensor]]:
        """Blocks with their raw numbers (*axes, c) and the gradient of the quantity `gradient_of` by each of these.

        Raises:
            ValueError: A trace made without `gradient_of`.
        """
        layers = list(zip(self._of(patient), self._slopes_of(patient), strict=True))
        return self._differentiate(patient, layers)

    def _of(self, patient: int) -> list[Attended]:
        return [one for layer in self._layers if (one := layer[patient]) is not None]

    def _slopes_of(self, patient: int) -> list[Tensor]:
        if self._slopes is None:
            raise ValueError(
                "expected a trace with gradients, made by model.trace(inputs, gradient_of=...) with one number per patient"
            )
        return [
            slopes[patient]
            for layer, slopes in zip(self._layers, self._slopes, strict=True)
            if layer[patient] is not None
        ]

    @torch.no_grad()
    def _walk(
        self, patient: int, layers: Sequence[tuple[Attended, Tensor | None]]
    ) -> Iterator[tuple[Block, Tensor]]:
        for block, _, tokens in self._tokens.blocks(patient):
            found = [_part(one, tokens).weights(self._keep, slope)[0] for one, slope in layers]
            yield block, torch.stack(found)

    def _differentiate(
        self, patient: int, layers: Sequence[tuple[Attended, Tensor]]
    ) -> Iterator[tuple[Block, Tensor, Tensor]]:
        for block, values, tokens in self._tokens.blocks(patient, differentiable=True):
            with torch.inference_mode(False):
                with torch.enable_grad():
                    standardized = tokens.standardized(layers[0][0].queries.dtype)  # one type in all layers
                slopes = _token_gradient(layers, tokens)
                (found,) = torch.autograd.grad(standardized, values, slopes)
            yield block, values.detach(), found


@torch.no_grad()
def _token_gradient(layers: Sequence[tuple[Attended, Tensor]], tokens: Tokens) -> Tensor:
    """The gradient by standardized tokens (1, n, c): its sum over layers, in which they are keys and values."""
    slopes = torch.zeros_like(tokens.standardized(layers[0][0].queries.dtype))
    with no_autocast(tokens.values.device.type):
        for one, slope in layers:
            part, none = _part(one, tokens), torch.zeros_like(one.lse)
            saved = Saved(
                part.queries, part.keys, part.values, part.mask, None, part.output, none, part.lse, None
            )
            _, *by_role = differentiate(saved, Attention(slope, none, none), (False, True, True), whole=False)
            for found in by_role:
                assert found is not None
                slopes += found
    return slopes


def _part(one: Attended, tokens: Tokens) -> Attended:
    """The attention to these tokens."""
    values = tokens.standardized(one.queries.dtype)
    return replace(one, keys=values, values=values, mask=tokens.mask)
