"""Late fusion by Kronecker product: every product of features of different modalities."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from einops import rearrange
from torch import Tensor, nn

from healnet.baselines._embedding import Embeddings
from healnet.baselines._model import Baseline, Missing
from healnet.encoders import ModalityEncoder
from healnet.fusion import Output
from healnet.tokens import Tokens

__all__ = ["LateKronecker"]

# The fused vector is multiplied by a matrix of this many rows: four modalities of rank 32 would make a million.
WIDEST = 2**17


class LateKronecker(Baseline):
    """Late fusion by gated Kronecker product, as in PORPOISE (Chen et al. 2022, Cancer Cell 40:865).

    The fusion is that of Pathomic Fusion (Chen et al. 2020, arXiv 1912.08937), with h_i the modality's own
    embedding (self-normalizing layers on its tokens, then gated attention over them):

        g_i = σ(V_i [h_1; ...; h_j]) ⊙ ReLU(U_i h_i)
        logits = W₂ ReLU( W₁ ([1; g_1] ⊗ [1; g_2] ⊗ ... ⊗ [1; g_j]) + b₁ ) + b₂

    The fused vector has (rank + 1)^j entries. Thanks to the ones, a modality whose g is 0 leaves the products of the others.

    Args:
        encoders: Encoder of each modality.
        out_dim: Width of the output.
        dim: Width of an embedding and of the layer after the product.
        rank: Width of g.
        dropout: Dropout of the embeddings, of the product and after the layer.
        missing: Treatment of a patient without one of the modalities: "refuse" raises, "zero" makes its h and g 0.
        output: Meaning of the raw output, as in `HEALNet`.

    Shape:
        inputs: As for `HEALNet`; returns (b, out_dim).

    Raises:
        ValueError: A size below 1, or a product of more than 131,072 entries; an unknown `output`; inputs that `HEALNet`
            would refuse; with missing="refuse", a patient who lacks a modality.

    Example:
        >>> from healnet.encoders import OmicEncoder
        >>> model = LateKronecker({"rna": OmicEncoder(50, "vector"), "cnv": OmicEncoder(20, "vector")}, rank=8)
        >>> model({"rna": torch.randn(3, 50), "cnv": torch.randn(3, 20)}).shape
        torch.Size([3, 1])
    """

    design = "late fusion by Kronecker product"

    def __init__(
        self,
        encoders: Mapping[str, ModalityEncoder],
        *,
        out_dim: int = 1,
        dim: int = 256,
        rank: int = 8,
        dropout: float = 0.25,
        missing: Missing = "refuse",
        output: Output | None = None,
    ) -> None:
        sizes = {"dim": dim, "rank": rank}
        super().__init__(encoders, out_dim=out_dim, output=output, missing=missing, sizes=sizes)
        width = (rank + 1) ** len(encoders)
        if width > WIDEST:
            raise ValueError(
                f"expected (rank + 1)^j of at most {WIDEST}, got {rank + 1}^{len(encoders)} = {width}; choose a smaller rank"
            )
        self.embed = Embeddings({name: e.token_dim for name, e in encoders.items()}, dim, dropout)
        self.reduce = nn.ModuleDict({name: nn.Linear(dim, rank) for name in encoders})
        self.gate = nn.ModuleDict({name: nn.Linear(len(encoders) * dim, rank) for name in encoders})
        self.head = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(width, dim),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(dim, out_dim),
        )

    def predict(self, tokens: Mapping[str, Tokens], batch: int) -> Tensor:
        """Embed each modality, gate, multiply, and apply the head."""
        self.require(self.encoders, tokens, batch)
        vectors, present = self.embed(tokens, batch)
        everything = vectors.flatten(1)
        product = vectors.new_ones(batch, 1)
        for i, name in enumerate(self.encoders):
            gated = self.gate[name](everything).sigmoid() * self.reduce[name](vectors[:, i]).relu()
            gated = gated * present[:, i : i + 1]
            factor = torch.cat((vectors.new_ones(batch, 1), gated), dim=1)
            product = rearrange(product.unsqueeze(2) * factor.unsqueeze(1), "b p r -> b (p r)")
        return self.head(product)
