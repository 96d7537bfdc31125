"""MOTCat: MCAT with optimal transport instead of co-attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from healnet.baselines.mcat import MCAT
from healnet.encoders import ModalityEncoder

__all__ = ["MOTCat", "TransportCoAttention"]

# Iterations end when the scalings change by less than this share: the plan is then exact to about as much, well within the
# 1e-10 to which padding and order of tokens may not matter. Whichever processor counts them, one more changes no result.
TOLERANCE = 1e-12


class TransportCoAttention(nn.Module):
    """Co-attention by unbalanced optimal transport (Xu and Chen 2023, ICCV, arXiv 2306.08330).

    The plan between a patient's g guides G and n bag tokens H, with uniform marginals a and b, is

        P = argmin_P  <P, C> - ε Entropy(P) + τ KL(P 1 | a) + τ KL(Pᵀ 1 | b),   C_ij = ||G_i - H_j||² / max ||G_i - H_j||²

    with Entropy(P) = -Σ_ij P_ij (log P_ij - 1), and guide i gets Σ_j P_ij H_j. Sinkhorn's iterations are those of POT
    (`ot.unbalanced`), the translation-invariant ones (Séjourné, Vialard and Peyré 2022, AISTATS, arXiv 2201.00730), which do
    not slow down as τ grows. The plan is a constant in the backward pass. A bag of more than `micro_batch` tokens is cut
    into parts of that size, in order, each with a plan of its own; the mean over them is taken, weighted by their sizes.

    Args:
        entropy: Weight ε of the entropy.
        marginal: Weight τ of the marginals.
        micro_batch: Most bag tokens per plan; None for all of a patient's.

    Shape:
        guides: (b, g, d); guide_mask: (b, g); bag: (b, n, d); bag_mask: (b, n); returns (b, g, d), zeros for masked guides

    Raises:
        ValueError: A weight that is not positive, or a `micro_batch` below 1.
        ImportError: POT is not installed.
    """

    def __init__(self, entropy: float = 0.1, marginal: float = 0.5, micro_batch: int | None = None) -> None:
        super().__init__()
        if not (entropy > 0 and marginal > 0):
            raise ValueError(f"expected entropy and marginal above 0, got {entropy} and {marginal}")
        if micro_batch is not None and micro_batch < 1:
            raise ValueError(f"expected micro_batch of at least 1 or None, got {micro_batch}")
        try:
            import ot
        except ImportError as error:
            raise ImportError("optimal transport needs POT: pip install healnet[transport]") from error
        self._sinkhorn = ot.unbalanced.sinkhorn_unbalanced
        self.entropy = entropy
        self.marginal = marginal
        self.micro_batch = micro_batch

    def forward(self, guides: Tensor, guide_mask: Tensor, bag: Tensor, bag_mask: Tensor) -> Tensor:
        """Transport each patient's bag to its guides."""
        # One patient at a time, without padding: a masked token must not take its share of the mass.
        rows = [
            torch.zeros_like(x).index_put((real,), self._patient(x[real], h[m]))
            for x, real, h, m in zip(guides, guide_mask, bag, bag_mask, strict=True)
        ]
        return torch.stack(rows) if rows else torch.zeros_like(guides)

    def _patient(self, guides: Tensor, bag: Tensor) -> Tensor:
        if not len(bag) or not len(guides):
            return torch.zeros_like(guides)
        parts = bag.split(self.micro_batch or len(bag))
        return torch.stack([self.plan(guides, x) @ x * (len(x) / len(bag)) for x in parts]).sum(dim=0)

    @torch.no_grad()
    def plan(self, guides: Tensor, bag: Tensor) -> Tensor:
        """The transport plan between guides (g, d) and bag tokens (n, d): (g, n)."""
        cost = torch.cdist(guides.double(), bag.double()).square()
        cost = cost / cost.max().clamp(min=torch.finfo(cost.dtype).tiny)
        a, b = (cost.new_full((n,), 1 / n) for n in cost.shape)
        # POT 0.9.5 began to take the entropy relative to a bᵀ, which is another plan of less mass; to ones is the paper's.
        plan = self._sinkhorn(
            a,
            b,
            cost,
            self.entropy,
            self.marginal,
            method="sinkhorn_translation_invariant",
            c=torch.ones_like(cost),
            stopThr=TOLERANCE,
        )
        return plan.to(bag)


class MOTCat(MCAT):
    """Multimodal optimal transport-based co-attention transformer (Xu and Chen 2023, ICCV, arXiv 2306.08330).

    MCAT, with `TransportCoAttention` instead of co-attention: what a guide reads of the bag also depends on what the
    other guides read. A patient may lack some of the guiding modalities; the design needs the bag and a guide.

    Args:
        encoders: Encoder of each modality, as `GeneSetEncoder` for the genes and `PatchEncoder` for the slide.
        bag: Name of the modality that is transported. All others guide.
        entropy: Weight of the plan's entropy.
        marginal: Weight of the plan's marginals.
        micro_batch: Most bag tokens per plan; None for all of a patient's.
        **options: Further arguments of `MCAT`.

    Shape:
        inputs: As for `HEALNet`; returns (b, out_dim).

    Raises:
        ValueError: An argument or input that `MCAT` or `TransportCoAttention` refuses.
        ImportError: POT is not installed (`pip install healnet[transport]`).
    """

    design = "MOTCat"

    def __init__(
        self,
        encoders: Mapping[str, ModalityEncoder],
        bag: str,
        *,
        entropy: float = 0.1,
        marginal: float = 0.5,
        micro_batch: int | None = 256,
        **options: Any,
    ) -> None:
        transport = TransportCoAttention(entropy, marginal, micro_batch)
        super().__init__(encoders, bag, co_attention=transport, **options)
