"""Masked multi-head attention and the transformer block of the designs that need them."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor, nn

from healnet.nn.chunked_attention import chunked_attention

__all__ = ["MaskedAttention", "TransformerBlock"]


class MaskedAttention(nn.Module):
    """Multi-head attention softmax(Q Kᵀ / √e) V with a mask over the keys (Vaswani et al. 2017, arXiv 1706.03762, sec. 3.2).

    A query of a patient without any real key gets the bias of the output projection.

    Args:
        dim: Width of queries, keys and output.
        num_heads: Heads; they share `dim`.

    Shape:
        queries: (b, r, dim); keys: (b, n, dim), finite where masked too; mask: (b, n), True = real; returns (b, r, dim)

    Raises:
        ValueError: A `dim` that the heads cannot share.
    """

    def __init__(self, dim: int, num_heads: int = 1) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"expected dim to be a multiple of num_heads={num_heads}, got {dim}")
        self.num_heads = num_heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(dim, dim) for _ in range(3))
        self.to_out = nn.Linear(dim, dim)

    def forward(self, queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """Attend."""
        h = self.num_heads
        scale = (queries.shape[2] / h) ** -0.5
        q, k, v = (
            rearrange(x, "b n (h e) -> (b h) n e", h=h)
            for x in (self.to_q(queries) * scale, self.to_k(keys), self.to_v(keys))
        )
        output = chunked_attention(q, k, v, mask.repeat_interleave(h, dim=0)).output
        return self.to_out(rearrange(output, "(b h) n e -> b n (h e)", h=h))


class TransformerBlock(nn.Module):
    """Self-attention and a feed-forward, each added and then normalized, as first published (arXiv 1706.03762, sec. 3.1).

    Args:
        dim: Width of the tokens.
        num_heads: Heads.
        dropout: Dropout of both updates.

    Shape:
        tokens: (b, n, dim); mask: (b, n); returns (b, n, dim)
    """

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = MaskedAttention(dim, num_heads)
        self.feed_forward = nn.Sequential(
            nn.Linear(dim, 2 * dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(2 * dim, dim)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Apply the block."""
        first, second = self.norms
        tokens = first(tokens + self.dropout(self.attention(tokens, tokens, mask)))
        return second(tokens + self.dropout(self.feed_forward(tokens)))
