"""Hybrid early-fusion layer: the shared latents attend to the raw tokens of one modality after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from healnet.fusion.layer import FusionLayer
from healnet.fusion.token_stream import TokenStream
from healnet.fusion.trace import TraceRecorder
from healnet.fusion.untouched import touch
from healnet.nn.attention import CrossAttention, SelfAttention
from healnet.nn.feedforward import GatedFeedForward
from healnet.tokens import Tokens

__all__ = ["HybridFusionLayer"]


class HybridFusionLayer(FusionLayer):
    """One fusion layer of HEALNet (Hemker et al. 2024, arXiv 2311.09115, eq. 1-4).

    For each modality j, in the order of `token_dims`:

        S <- S + present_j * CrossAttention_j(LN(S), LN(X_j))
        S <- S + present_j * FeedForward_j(LN(S))
        S <- S + present_j * SelfAttention(LN(S)); S <- S + present_j * FeedForward(LN(S))      `self_attention` times

    The self-attention blocks are shared by the modalities of a layer. A patient without modality j keeps S as it was, bit
    for bit, and no gradient flows there.

    Args:
        latent_dim: Width d of the latents.
        token_dims: Width c of each modality's tokens, in the order of fusion.
        num_heads: Heads of cross-attention.
        head_dim: Width of a cross-attention head.
        self_attention: Self-attention blocks after each modality's update; 0 for none.
        self_num_heads: Heads of self-attention (default: `num_heads`).
        self_head_dim: Width of a self-attention head (default: `head_dim`).
        attention_dropout: Dropout of attention.
        ff_dropout: Dropout at the end of each feed-forward.
        ff_mult: Hidden width of a feed-forward over `latent_dim`.
        gate: Gate of the feed-forwards, "selu" or "gelu".
        temperature: Divisor of attention scores before the softmax.
        activation: Function that makes the module applied after each attention's output projection; none in the paper.
        self_attention_when_absent: Whether the self-attention blocks run also after a modality that a patient lacks, as
            in the authors' release.

    Shape:
        latents: (b, m, d); tokens: (b, n_j, c_j) each; returns (b, m, d)
    """

    streams = True

    def __init__(
        self,
        latent_dim: int,
        token_dims: Mapping[str, int],
        *,
        num_heads: int = 4,
        head_dim: int = 32,
        self_attention: int = 1,
        self_num_heads: int | None = None,
        self_head_dim: int | None = None,
        attention_dropout: float = 0.0,
        ff_dropout: float = 0.0,
        ff_mult: int = 4,
        gate: Literal["selu", "gelu"] = "selu",
        temperature: float = 1.0,
        activation: Callable[[], nn.Module] = nn.Identity,
        self_attention_when_absent: bool = False,
    ) -> None:
        super().__init__()
        self.self_attention_when_absent = self_attention_when_absent

        def feed_forward() -> nn.Sequential:
            return nn.Sequential(
                nn.LayerNorm(latent_dim), GatedFeedForward(latent_dim, ff_mult, ff_dropout, gate)
            )

        self.cross_attention = nn.ModuleDict(
            {
                name: CrossAttention(
                    latent_dim,
                    token_dim,
                    num_heads,
                    head_dim,
                    attention_dropout,
                    temperature,
                    activation(),
                )
                for name, token_dim in token_dims.items()
            }
        )
        self.feed_forward = nn.ModuleDict({name: feed_forward() for name in token_dims})
        self.self_attention = nn.ModuleList(
            SelfAttention(
                latent_dim,
                self_num_heads or num_heads,
                self_head_dim or head_dim,
                attention_dropout,
                temperature,
                activation(),
            )
            for _ in range(self_attention)
        )
        self.self_feed_forward = nn.ModuleList(feed_forward() for _ in range(self_attention))

    def forward(
        self,
        latents: Tensor,
        tokens: Mapping[str, Tokens | TokenStream],
        recorder: TraceRecorder | None = None,
    ) -> Tensor:
        """Update the latents with every modality in turn."""
        for name in self.cross_attention:
            present: Tensor | None = None
            if name in tokens:
                present = tokens[name].present
                update = self._attend(name, latents, tokens[name], recorder)
                latents = _gated(latents, update, present)
                latents = _gated(latents, self.feed_forward[name](latents), present)
            elif not self.self_attention_when_absent:
                continue
            if self.self_attention_when_absent:
                present = None
            latents = self._self_attend(latents, present, name, recorder)
        return touch(latents, self._unused(tokens)) if self.training else latents

    def _unused(self, tokens: Mapping[str, Tokens | TokenStream]) -> Iterator[nn.Module]:
        """The parts that a batch without some modalities does not run."""
        for name in self.cross_attention:
            if name not in tokens:
                yield self.cross_attention[name]
                yield self.feed_forward[name]
        if not tokens:
            yield self.self_attention
            yield self.self_feed_forward

    def _attend(
        self, name: str, latents: Tensor, tokens: Tokens | TokenStream, recorder: TraceRecorder | None
    ) -> Tensor:
        cross, dtype = self._cross(name), _working_dtype(latents)
        if isinstance(tokens, TokenStream):
            walks = [tokens.walk(patient, dtype) for patient in range(len(tokens))]
            update, by_patient = cross.attend_pieces(latents, walks, tokens.parameters, tokens.shards)
            if recorder is not None:
                recorder.record_stream(tokens, by_patient, dropout=cross.training and cross.dropout > 0)
            return update
        update, attended = cross.attend(
            latents, tokens.standardized(dtype), tokens.mask, shards=tokens.shards
        )
        if recorder is not None:
            recorder.record(name, attended)
        return update

    def _cross(self, name: str) -> CrossAttention:
        module = self.cross_attention[name]
        assert isinstance(module, CrossAttention)
        return module

    def _self_attend(
        self, latents: Tensor, present: Tensor | None, name: str, recorder: TraceRecorder | None
    ) -> Tensor:
        for attention, feed_forward in zip(self.self_attention, self.self_feed_forward, strict=True):
            assert isinstance(attention, SelfAttention)
            if recorder is not None:
                recorder.record_self_attention(name, attention.weights(latents), present)
            latents = _gated(latents, attention(latents), present)
            latents = _gated(latents, feed_forward(latents), present)
        return latents


def _working_dtype(latents: Tensor) -> torch.dtype:
    """The type attention multiplies in, which autocast may lower: all layers then share one copy of the tokens in it."""
    device = latents.device.type
    if latents.dtype == torch.float64 or not torch.amp.is_autocast_available(device):
        return latents.dtype
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else latents.dtype


def _gated(latents: Tensor, update: Tensor, present: Tensor | None) -> Tensor:
    """`latents + present * update`, exact for the absent: 0 * inf would be NaN, and x + 0 may lose the sign of a zero."""
    if present is None:
        return latents + update
    return torch.where(present[:, None, None], latents + update, latents)
