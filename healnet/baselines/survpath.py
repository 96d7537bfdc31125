"""SurvPath: pathways attend to pathways and patches, patches to pathways."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from healnet.baselines._guided import GuidedBaseline
from healnet.baselines._model import Missing
from healnet.baselines._transformer import MaskedAttention
from healnet.encoders import ModalityEncoder
from healnet.fusion import Output

__all__ = ["SurvPath"]


class SurvPath(GuidedBaseline):
    """A memory-efficient multimodal transformer (Jaume et al. 2024, CVPR, arXiv 2304.06819).

    With P the tokens of pathways and H those of patches, one attention layer in which patches do not attend to patches:

        X = softmax( [Q_P K_Pᵀ, Q_P K_Hᵀ; Q_H K_Pᵀ, -∞] / √d ) [V_P; V_H]

    between a LayerNorm and a feed-forward with a LayerNorm; then the mean over pathways and the mean over patches, and a
    linear head on both.

    Like SurvPath, not the same: pathways come from our `GeneSetEncoder` (or any encoder), and several modalities may give
    them. A patient may lack some of those; the design needs the bag and a pathway.

    Args:
        encoders: Encoder of each modality, as `GeneSetEncoder` for the genes and `PatchEncoder` for the slide.
        bag: Name of the modality whose tokens do not attend to each other. All others give pathways.
        out_dim: Width of the output.
        dim: Width d of the tokens inside.
        num_heads: Heads; the paper has one.
        dropout: Dropout.
        missing: Treatment of a patient without the bag, or without any pathway: "refuse" raises, "zero" makes that
            mean 0.
        output: Meaning of the raw output, as in `HEALNet`.

    Shape:
        inputs: As for `HEALNet`; returns (b, out_dim).

    Raises:
        ValueError: A size below 1; a `bag` that is no modality, or the only one; a `dim` that the heads cannot share; an
            unknown `output`; inputs that `HEALNet` would refuse; with missing="refuse", a patient who lacks
            the bag or all pathways.

    Example:
        >>> from healnet.encoders import OmicEncoder, PatchEncoder
        >>> encoders = {"rna": OmicEncoder(50, tokens=6), "slide": PatchEncoder(128, positions=False)}
        >>> SurvPath(encoders, "slide", out_dim=4)({"rna": torch.randn(2, 50), "slide": torch.randn(2, 30, 128)}).shape
        torch.Size([2, 4])
    """

    design = "SurvPath"

    def __init__(
        self,
        encoders: Mapping[str, ModalityEncoder],
        bag: str,
        *,
        out_dim: int = 1,
        dim: int = 256,
        num_heads: int = 1,
        dropout: float = 0.25,
        missing: Missing = "refuse",
        output: Output | None = None,
    ) -> None:
        super().__init__(
            encoders,
            bag,
            out_dim=out_dim,
            dim=dim,
            dropout=dropout,
            missing=missing,
            output=output,
            sizes={"num_heads": num_heads},
        )
        self.norm = nn.LayerNorm(dim)
        self.attention = MaskedAttention(dim, num_heads)
        self.feed_forward = nn.Sequential(
            nn.Linear(dim, dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(dim, dim), nn.LayerNorm(dim)
        )
        self.head = nn.Linear(2 * dim, out_dim)

    def fuse(self, guides: Tensor, guide_mask: Tensor, bag: Tensor, bag_mask: Tensor) -> Tensor:
        """Attend, take the mean of each set, and apply the head."""
        pathways, patches = self.norm(guides), self.norm(bag)
        everything, real = torch.cat((pathways, patches), dim=1), torch.cat((guide_mask, bag_mask), dim=1)
        means = [
            _mean(self.feed_forward(self.attention(queries, keys, key_mask)), mask)
            for queries, mask, keys, key_mask in (
                (pathways, guide_mask, everything, real),
                (patches, bag_mask, pathways, guide_mask),
            )
        ]
        return self.head(torch.cat(means, dim=1))


def _mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """The mean over the real tokens of each patient, (b, d); zeros where there is none."""
    weights = mask.to(tokens.dtype)
    return (weights.unsqueeze(1) @ tokens).squeeze(1) / weights.sum(dim=1, keepdim=True).clamp(min=1)
