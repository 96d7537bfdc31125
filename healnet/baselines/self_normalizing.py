"""Self-normalizing network: tables side by side through SELU layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from healnet.baselines._model import Baseline, Missing, real_values
from healnet.encoders import ModalityEncoder
from healnet.fusion import Output
from healnet.nn.feedforward import SelfNormalizing
from healnet.tokens import Tokens

__all__ = ["SelfNormalizingNetwork"]


class SelfNormalizingNetwork(Baseline):
    """Layers of SELU and alpha dropout on the tables side by side (Klambauer et al. 2017, arXiv 1706.02515, eq. 2).

        h_l = AlphaDropout( selu(W_l h_{l-1} + b_l) ),   selu(x) = λ x for x > 0, λ α (eˣ - 1) otherwise

    The network for omics in MCAT and PORPOISE, with their two layers of 256. A missing cell of a table enters as 0, which is
    the training mean of a standardized feature.

    Args:
        encoders: Encoder of each table that makes one token of it: `OmicEncoder(f, tokens="vector")`.
        out_dim: Width of the output.
        hidden: Widths of the layers.
        dropout: Alpha dropout after each layer.
        missing: Treatment of a patient without one of the tables: "refuse" raises, "zero" makes its features 0.
        output: Meaning of the raw output, as in `HEALNet`.

    Shape:
        inputs: (b, f) per table, or `Masked`; returns (b, out_dim).

    Raises:
        ValueError: A size below 1; an unknown `output`; inputs that `HEALNet` would refuse; an encoder that makes more than
            one token; with missing="refuse", a patient who lacks a table.

    Example:
        >>> from healnet.encoders import OmicEncoder
        >>> model = SelfNormalizingNetwork({"rna": OmicEncoder(50, "vector"), "cnv": OmicEncoder(20, "vector")})
        >>> model({"rna": torch.randn(3, 50), "cnv": torch.randn(3, 20)}).shape
        torch.Size([3, 1])
    """

    design = "a self-normalizing network"

    def __init__(
        self,
        encoders: Mapping[str, ModalityEncoder],
        *,
        out_dim: int = 1,
        hidden: Sequence[int] = (256, 256),
        dropout: float = 0.25,
        missing: Missing = "refuse",
        output: Output | None = None,
    ) -> None:
        layers = {f"hidden[{i}]": size for i, size in enumerate(hidden)}
        super().__init__(encoders, out_dim=out_dim, output=output, missing=missing, sizes=layers)
        self.widths = {name: encoder.token_dim for name, encoder in encoders.items()}
        sizes = [sum(self.widths.values()), *hidden]
        self.layers = nn.Sequential(*(SelfNormalizing(a, b, dropout) for a, b in pairwise(sizes)))
        self.head = nn.Linear(sizes[-1], out_dim)

    def predict(self, tokens: Mapping[str, Tokens], batch: int) -> Tensor:
        """Concatenate the tables and apply the layers."""
        self.require(self.encoders, tokens, batch)
        weight, rows = self.head.weight, []
        for name, width in self.widths.items():
            if name not in tokens:
                rows.append(weight.new_zeros(batch, width))
                continue
            values = real_values(tokens[name], weight.dtype)
            if values.shape[1] != 1:
                raise ValueError(
                    f"modality {name!r}: expected one token per patient, as OmicEncoder(f, tokens='vector') makes, "
                    f"got {values.shape[1]}"
                )
            rows.append(values.squeeze(1))
        return self.head(self.layers(torch.cat(rows, dim=1)))
