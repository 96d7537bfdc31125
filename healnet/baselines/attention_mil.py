"""Gated-attention multiple-instance learning: a weighted mean of a bag's instances."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from healnet.baselines._model import Baseline, real_mask, real_values
from healnet.encoders import ModalityEncoder
from healnet.fusion import Output
from healnet.tokens import Tokens

__all__ = ["AttentionMIL", "GatedAttentionPool"]


class GatedAttentionPool(nn.Module):
    """A weighted mean over tokens, its weights from a small gated network (Ilse et al. 2018, arXiv 1802.04712, eq. 9).

        z = Σ_k a_k h_k,   a = softmax_k( wᵀ (tanh(V h_k) ⊙ σ(U h_k)) )

    A patient without tokens gets zeros.

    Args:
        dim: Width of the tokens.
        hidden: Width of V h and U h.
        dropout: Dropout of tanh(V h) and of σ(U h).

    Shape:
        values: (b, n, dim), finite where masked too; mask: (b, n), True = real; returns (b, dim)
    """

    def __init__(self, dim: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.content = nn.Sequential(nn.Linear(dim, hidden), nn.Tanh(), nn.Dropout(dropout))
        self.gate = nn.Sequential(nn.Linear(dim, hidden), nn.Sigmoid(), nn.Dropout(dropout))
        self.score = nn.Linear(hidden, 1)

    def weights(self, values: Tensor, mask: Tensor) -> Tensor:
        """The attention weights, (b, n): they sum to 1 over the real tokens of each patient who has any."""
        scores = self.score(self.content(values) * self.gate(values)).squeeze(-1)
        lowest = scores.new_full((), float("-inf")).nan_to_num()  # not -inf: a row of it would be NaN
        return scores.masked_fill(~mask, lowest).softmax(dim=1) * mask

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        """Pool the tokens of each patient."""
        return (self.weights(values, mask).unsqueeze(1) @ values).squeeze(1)


class AttentionMIL(Baseline):
    """Gated-attention multiple-instance learning on one bag of tokens (Ilse et al. 2018, arXiv 1802.04712, eq. 9).

    As is usual for slides: a linear layer with ReLU on each token, `GatedAttentionPool`, a linear head. It is a model of
    one modality. A patient who lacks it gets the head of zeros, the same for every such patient.

    Args:
        encoders: Encoder of one modality.
        out_dim: Width of the output.
        dim: Width of the embedded tokens.
        hidden: Width of the attention network.
        dropout: Dropout of the embedded tokens and of the attention network.
        output: Meaning of the raw output, as in `HEALNet`.

    Shape:
        inputs: As the encoder takes them, under the modality's name; returns (b, out_dim).

    Raises:
        ValueError: More than one encoder; a size below 1; an unknown `output`; inputs that `HEALNet` would refuse.

    Example:
        >>> import torch
        >>> from healnet.encoders import PatchEncoder
        >>> model = AttentionMIL({"slide": PatchEncoder(1024, positions=False)}, out_dim=4)
        >>> model({"slide": torch.randn(2, 50, 1024)}).shape
        torch.Size([2, 4])
    """

    design = "attention MIL"

    def __init__(
        self,
        encoders: Mapping[str, ModalityEncoder],
        *,
        out_dim: int = 1,
        dim: int = 256,
        hidden: int = 256,
        dropout: float = 0.25,
        output: Output | None = None,
    ) -> None:
        super().__init__(encoders, out_dim=out_dim, output=output, sizes={"dim": dim, "hidden": hidden})
        if len(encoders) != 1:
            raise ValueError(f"expected one modality for {self.design}, got {list(encoders)}")
        (encoder,) = encoders.values()
        self.embed = nn.Sequential(nn.Linear(encoder.token_dim, dim), nn.ReLU(), nn.Dropout(dropout))
        self.pool = GatedAttentionPool(dim, hidden, dropout)
        self.head = nn.Linear(dim, out_dim)

    def predict(self, tokens: Mapping[str, Tokens], batch: int) -> Tensor:
        """Embed, pool, and apply the head."""
        if not tokens:
            return self.head(self.head.weight.new_zeros(batch, self.head.in_features))
        (bag,) = tokens.values()
        embedded = self.embed(real_values(bag, self.head.weight.dtype))
        return self.head(self.pool(embedded, real_mask(bag)))
