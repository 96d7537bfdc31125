"""MCAT: genes guide what is read of a slide, by co-attention."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from healnet.baselines._co_attention import CoAttentionBaseline
from healnet.baselines._model import Missing
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


class MCAT(CoAttentionBaseline):
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
        missing: What is done about a patient without the bag, or without any guide: "refuse" raises, "zero" makes that
            summary 0.
        output: Meaning of the raw output, as in `HEALNet`.

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
    ) -> None:
        super().__init__(
            encoders,
            bag,
            CoAttention(dim),
            out_dim=out_dim,
            dim=dim,
            depth=depth,
            num_heads=num_heads,
            dropout=dropout,
            missing=missing,
            output=output,
        )
