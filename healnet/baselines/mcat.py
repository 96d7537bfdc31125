"""MCAT: genes guide what is read of a slide, by co-attention."""

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
from healnet.nn.chunked_attention import chunked_attention

__all__ = ["MCAT", "CoAttention"]


class CoAttention(nn.Module):
    """Genomic-guided co-attention (Chen et al. 2021, ICCV): each guide reads the bag.

        CoAttn(G, H) = softmax( W_q G (W_k H)ᵀ / √d ) W_v H

    A guide of a patient without a bag gets zeros.

    Args:
        dim: Width d of guides and bag.

    Shape:
        guides: (b, g, d); guide_mask: (b, g), not needed here; bag: (b, n, d); bag_mask: (b, n); returns (b, g, d)
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(dim, dim, bias=False) for _ in range(3))

    def forward(self, guides: Tensor, guide_mask: Tensor, bag: Tensor, bag_mask: Tensor) -> Tensor:
        """Attend."""
        queries = self.to_q(guides) * guides.shape[2] ** -0.5
        return chunked_attention(queries, self.to_k(bag), self.to_v(bag), bag_mask).output


class MCAT(GuidedBaseline):
    """Multimodal co-attention transformer (Chen et al. 2021, ICCV, "Multimodal Co-Attention Transformer for Survival").

    Tokens of gene sets (or of any other modalities) guide what is read of a bag of patches: `CoAttention` makes one bag
    token per guide; a set transformer and gated attention summarize each of the two sets; a network reads both summaries.

    A patient may lack some of the guiding modalities, whose tokens are masked; the design needs the bag and a guide.

    Args:
        encoders: Encoder of each modality, as `GeneSetEncoder` for the genes and `PatchEncoder` for the slide.
        bag: Name of the modality that is attended to. All others guide.
        out_dim: Width of the output.
        dim: Width of the tokens inside.
        depth: Transformer blocks per set.
        num_heads: Heads of those.
        dropout: Dropout.
        missing: Treatment of a patient without the bag, or without any guide: "refuse" raises, "zero" makes that
            summary 0.
        output: Meaning of the raw output, as in `HEALNet`.
        co_attention: Module from (guides, guide_mask, bag, bag_mask) to (b, g, d) instead of `CoAttention(dim)`.

    Shape:
        inputs: As for `HEALNet`; returns (b, out_dim).

    Raises:
        ValueError: A size below 1; a `bag` that is no modality, or the only one; a `dim` that the heads cannot share; an
            unknown `output`; inputs that `HEALNet` would refuse; with missing="refuse", a patient who lacks
            the bag or all guides.

    Example:
        >>> import torch
        >>> from healnet.encoders import OmicEncoder, PatchEncoder
        >>> encoders = {"rna": OmicEncoder(50, tokens=6), "slide": PatchEncoder(128, positions=False)}
        >>> MCAT(encoders, "slide", out_dim=4)({"rna": torch.randn(2, 50), "slide": torch.randn(2, 30, 128)}).shape
        torch.Size([2, 4])
    """

    design = "MCAT"

    def __init__(
        self,
        encoders: Mapping[str, ModalityEncoder],
        bag: str,
        *,
        out_dim: int = 1,
        dim: int = 256,
        depth: int = 2,
        num_heads: int = 8,
        dropout: float = 0.25,
        missing: Missing = "refuse",
        output: Output | None = None,
        co_attention: nn.Module | None = None,
    ) -> None:
        co_attention = CoAttention(dim) if co_attention is None else co_attention
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
