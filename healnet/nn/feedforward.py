"""Feed-forward blocks: the gated one of the fusion layers, and a self-normalizing one."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["GatedFeedForward", "SelfNormalizing"]


class GatedFeedForward(nn.Module):
    """`W2 (a * gate(b))` with `a, b = chunk(W1 x)`: a gated linear unit (Shazeer 2020, arXiv 2002.05202).

    The gate is SELU, as in HEALNet (arXiv 2311.09115, sec. 3), or GELU.

    Shape:
        (..., dim) -> (..., dim)

    Raises:
        ValueError: A gate other than "selu" or "gelu".
    """

    def __init__(
        self, dim: int, mult: int = 4, dropout: float = 0.0, gate: Literal["selu", "gelu"] = "selu"
    ) -> None:
        super().__init__()
        if gate not in ("selu", "gelu"):
            raise ValueError(f"expected gate 'selu' or 'gelu', got {gate!r}")
        self.gate = gate
        self.expand = nn.Linear(dim, 2 * mult * dim)
        self.contract = nn.Linear(mult * dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to the last axis."""
        value, gate = self.expand(x).chunk(2, dim=-1)
        gate = F.selu(gate) if self.gate == "selu" else F.gelu(gate)
        return self.dropout(self.contract(value * gate))


class SelfNormalizing(nn.Module):
    """Linear, SELU, AlphaDropout: keeps mean 0 and variance 1 without a norm (Klambauer et al. 2017, arXiv 1706.02515).

    Weights start LeCun-normal and biases at zero, which the fixed point of SELU needs.

    Shape:
        (..., in_features) -> (..., out_features)
    """

    def __init__(self, in_features: int, out_features: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features)
        self.dropout = nn.AlphaDropout(dropout)
        nn.init.normal_(self.linear.weight, std=in_features**-0.5)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to the last axis."""
        return self.dropout(F.selu(self.linear(x)))
