"""One vector per patient and modality, for the designs that fuse late."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from healnet.baselines._model import presence, real_mask, real_values
from healnet.baselines.attention_mil import GatedAttentionPool
from healnet.nn.feedforward import SelfNormalizing
from healnet.tokens import Tokens

__all__ = ["Embeddings"]


class Embeddings(nn.Module):
    """Two self-normalizing layers on each token, then gated attention over the tokens, for each modality by itself.

    A table of one raw token is thereby PORPOISE's self-normalizing network, a bag of patches its attention MIL.

    Args:
        token_dims: Width of each modality's tokens.
        dim: Width d of the vectors.
        dropout: Alpha dropout of the layers, and dropout of the attention network.

    Shape:
        tokens: (b, n, c) per modality; returns the vectors (b, j, d), zero where absent, and who has what (b, j),
        for j modalities in the order of `token_dims`.
    """

    def __init__(self, token_dims: Mapping[str, int], dim: int, dropout: float) -> None:
        super().__init__()
        self.dim = dim
        self.layers = nn.ModuleDict(
            {
                name: nn.Sequential(SelfNormalizing(width, dim, dropout), SelfNormalizing(dim, dim, dropout))
                for name, width in token_dims.items()
            }
        )
        self.pools = nn.ModuleDict({name: GatedAttentionPool(dim, dim, dropout) for name in token_dims})

    def forward(self, tokens: Mapping[str, Tokens], batch: int) -> tuple[Tensor, Tensor]:
        """Embed the modalities of a batch."""
        like = next(self.parameters()).new_zeros(batch, self.dim)
        vectors = [
            self.pools[name](layers(real_values(tokens[name], like.dtype)), real_mask(tokens[name]))
            if name in tokens
            else like
            for name, layers in self.layers.items()
        ]
        return torch.stack(vectors, dim=1), presence(tokens, self.layers, like)
