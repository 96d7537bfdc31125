"""Late fusion by concatenation: one vector per modality, side by side."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from healnet.baselines._embedding import Embeddings
from healnet.baselines._model import Baseline, Missing
from healnet.encoders import ModalityEncoder
from healnet.fusion import Output
from healnet.tokens import Tokens

__all__ = ["LateConcat"]


class LateConcat(Baseline):
    """Late fusion by concatenation, as in PORPOISE (Chen et al. 2022, Cancer Cell 40:865, its concatenation variant).

        logits = W₂ ReLU( W₁ [h_1; h_2; ...; h_j] + b₁ ) + b₂

    h_j is the modality's own embedding: self-normalizing layers on its tokens, then gated attention over them.

    Args:
        encoders: Encoder of each modality.
        out_dim: Width of the output.
        dim: Width of an embedding and of the layer after the concatenation.
        dropout: Dropout of the embeddings and after the layer.
        missing: Treatment of a patient without one of the modalities: "refuse" raises, "zero" makes its embedding 0.
        output: Meaning of the raw output, as in `HEALNet`.

    Shape:
        inputs: As for `HEALNet`; returns (b, out_dim).

    Raises:
        ValueError: A size below 1; an unknown `output`; inputs that `HEALNet` would refuse; with missing="refuse", a patient
            who lacks a modality.

    Example:
        >>> import torch
        >>> from healnet.encoders import OmicEncoder
        >>> model = LateConcat({"rna": OmicEncoder(50, "vector"), "cnv": OmicEncoder(20, "vector")}, missing="zero")
        >>> model({"rna": torch.randn(3, 50)}).shape
        torch.Size([3, 1])
    """

    design = "late fusion by concatenation"

    def __init__(
        self,
        encoders: Mapping[str, ModalityEncoder],
        *,
        out_dim: int = 1,
        dim: int = 256,
        dropout: float = 0.25,
        missing: Missing = "refuse",
        output: Output | None = None,
    ) -> None:
        super().__init__(encoders, out_dim=out_dim, output=output, missing=missing, sizes={"dim": dim})
        self.embed = Embeddings({name: e.token_dim for name, e in encoders.items()}, dim, dropout)
        self.head = nn.Sequential(
            nn.Linear(len(encoders) * dim, dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(dim, out_dim)
        )

    def predict(self, tokens: Mapping[str, Tokens], batch: int) -> Tensor:
        """Embed each modality, concatenate, and apply the head."""
        self.require(self.encoders, tokens, batch)
        vectors, _ = self.embed(tokens, batch)
        return self.head(vectors.flatten(1))
