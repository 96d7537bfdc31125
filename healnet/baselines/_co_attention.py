"""The network around co-attention that MCAT and MOTCat share."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from healnet.baselines._guided import GuidedBaseline
from healnet.baselines._model import Missing
from healnet.baselines._transformer import TransformerBlock
from healnet.baselines.attention_mil import GatedAttentionPool
from healnet.encoders import ModalityEncoder
from healnet.fusion import Output

__all__ = ["CoAttentionBaseline"]


class CoAttentionBaseline(GuidedBaseline):
    """Base class: a co-attention makes one bag token per guide, both sets are summarized, and a head reads the summaries.

    `co_attention(guides, guide_mask, bag, bag_mask)` returns (b, g, d).

    Each set goes through transformer blocks and gated attention of its own.
    """

    def __init__(
        self,
        encoders: Mapping[str, ModalityEncoder],
        bag: str,
        co_attention: nn.Module,
        *,
        out_dim: int,
        dim: int,
        depth: int,
        num_heads: int,
        dropout: float,
        missing: Missing,
        output: Output | None,
    ) -> None:
        super().__init__(
            encoders,
            bag,
            out_dim=out_dim,
            dim=dim,
            dropout=dropout,
            missing=missing,
            output=output,
            sizes={"depth": depth, "num_heads": num_heads},
        )
        self.co_attention = co_attention
        self.guide_summary = _Summary(dim, depth, num_heads, dropout)
        self.bag_summary = _Summary(dim, depth, num_heads, dropout)
        self.head = nn.Sequential(
            nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, out_dim)
        )

    def fuse(self, guides: Tensor, guide_mask: Tensor, bag: Tensor, bag_mask: Tensor) -> Tensor:
        """Co-attend, summarize both sets, and apply the head."""
        attended = self.co_attention(guides, guide_mask, bag, bag_mask)
        summaries = (
            self.guide_summary(guides, guide_mask),
            self.bag_summary(attended, guide_mask & bag_mask.any(dim=1, keepdim=True)),
        )
        return self.head(torch.cat(summaries, dim=1))


class _Summary(nn.Module):
    """Transformer blocks over a set of tokens, then gated attention: (b, n, d) -> (b, d), zeros for an empty set."""

    def __init__(self, dim: int, depth: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TransformerBlock(dim, num_heads, dropout) for _ in range(depth))
        self.pool = GatedAttentionPool(dim, dim, dropout)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        for block in self.blocks:
            tokens = block(tokens, mask)
        return self.pool(tokens, mask)
