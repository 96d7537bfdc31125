"""Tables of genes, proteins, copy numbers, clinical variables: one number per feature."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from healnet.encoders.base import ModalityEncoder
from healnet.inputs import Masked, element_mask, unmask
from healnet.nn.feedforward import SelfNormalizing
from healnet.streams import Block, Pieces
from healnet.tokens import Tokens

__all__ = ["OmicEncoder"]


class OmicEncoder(ModalityEncoder):
    """A row of `num_features` numbers per patient, as tokens of one of three kinds.

    - `tokens="features"`: a token per feature, its value beside a learned embedding of which feature it is. Attention then
      ranks genes.
    - `tokens="vector"`: the whole row as one raw token, as in the paper (arXiv 2311.09115): attention over it is always 1.
    - `tokens=k`: k tokens by a learned self-normalizing projection with dropout on the input. The choice for small cohorts.

    Features that a present patient lacks (`Masked` with an elementwise mask): with "features" their tokens are masked and
    attention skips them; with the other two they enter as 0, which is the training mean of a standardized feature. A
    patient whose features are all missing is absent.

    Args:
        num_features: Features per patient.
        tokens: "features", "vector" or a number of tokens.
        token_dim: Width of a projected token, or of a feature's embedding plus its value; unused by "vector", whose token
            is as wide as the row.
        input_dropout: Probability of hiding a feature in training ("features": its token is masked, unless that would
            leave a patient without any; otherwise it is set to 0 and the rest scaled up).

    Shape:
        inputs: (b, f), or Masked with a mask of (b,) or (b, f); integers become floats
        returns: (b, f, token_dim), (b, 1, f) or (b, k, token_dim)

    Raises:
        ValueError: Another number of axes or features; an argument out of range, by name.

    Example:
        >>> OmicEncoder(100, tokens=4, token_dim=32)(torch.zeros(8, 100)).values.shape
        torch.Size([8, 4, 32])
    """

    def __init__(
        self,
        num_features: int,
        tokens: Literal["features", "vector"] | int = "features",
        token_dim: int = 32,
        input_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if tokens not in ("features", "vector") and not (
            isinstance(tokens, int) and not isinstance(tokens, bool) and tokens > 0
        ):
            raise ValueError(f"expected tokens 'features', 'vector' or a positive integer, got {tokens!r}")
        if num_features < 1 or token_dim < 1:
            raise ValueError(
                f"expected num_features and token_dim to be positive, got {num_features} and {token_dim}"
            )
        if not 0 <= input_dropout < 1:
            raise ValueError(f"expected input_dropout in [0, 1), got {input_dropout}")
        self.num_features = num_features
        self.tokens = tokens
        self.input_dropout = input_dropout
        self.token_dim = num_features if tokens == "vector" else token_dim
        if tokens == "features":
            if token_dim < 2:
                raise ValueError(
                    f"expected token_dim of at least 2 (a value and an embedding), got {token_dim}"
                )
            self.embedding = nn.Parameter(torch.randn(num_features, token_dim - 1))
        elif isinstance(tokens, int):
            self.project = SelfNormalizing(num_features, tokens * token_dim)

    def extra_repr(self) -> str:
        """Return the text that `repr` shows beside the parts."""
        return f"num_features={self.num_features}, tokens={self.tokens!r}, input_dropout={self.input_dropout}"

    def forward(self, inputs: Tensor | Masked) -> Tokens:
        """Encode a batch of rows."""
        values, mask = unmask(inputs)
        if values.dim() != 2 or values.shape[1] != self.num_features:
            raise ValueError(f"expected a shape of (b, {self.num_features}), got {tuple(values.shape)}")
        if not values.is_floating_point():
            values = values.to(torch.get_default_dtype())
        mask = element_mask(mask, values.shape)
        if mask is not None:
            values = values.masked_fill(~mask, 0)
        if self.tokens == "features":
            return self._feature_tokens(values, mask, self.embedding)
        present = None if mask is None else mask.any(dim=1, keepdim=True)
        values = F.dropout(values, self.input_dropout, self.training)
        if self.tokens == "vector":
            return Tokens(values.unsqueeze(1), present)
        weight = self.project.linear.weight
        projected = rearrange(
            self.project(values.to(weight.dtype)), "b (k c) -> b k c", k=self.tokens, c=self.token_dim
        )
        return Tokens(projected, None if present is None else present.expand(-1, projected.shape[1]))

    def encode_block(self, pieces: Pieces, block: Block, values: Tensor, mask: Tensor | None) -> Tokens:
        """Encode some of a patient's features, with `tokens="features"`."""
        if self.tokens != "features":
            return super().encode_block(pieces, block, values, mask)
        if pieces.sizes != (self.num_features,) or pieces.channels is not None:
            whole = pieces.sizes if pieces.channels is None else (*pieces.sizes, pieces.channels)
            raise ValueError(f"expected pieces of a shape of ({self.num_features},), got {whole}")
        if not values.is_floating_point():
            values = values.to(torch.get_default_dtype())
        values = values if mask is None else values.masked_fill(~mask, 0)
        shown = None if mask is None else mask.unsqueeze(0)
        return self._feature_tokens(values.unsqueeze(0), shown, self.embedding[block])

    def _feature_tokens(self, values: Tensor, mask: Tensor | None, embedding: Tensor) -> Tokens:
        if self.training and self.input_dropout > 0:
            kept = torch.rand(values.shape, device=values.device) >= self.input_dropout
            kept = kept if mask is None else kept & mask
            # A patient must not vanish: where nothing was kept, everything is.
            everything = torch.ones_like(kept) if mask is None else mask
            mask = torch.where(kept.any(dim=1, keepdim=True), kept, everything)
        embedding = repeat(embedding, "f e -> b f e", b=len(values))
        tokens = torch.cat((values.to(embedding.dtype).unsqueeze(-1), embedding), dim=-1)
        return Tokens(tokens, mask)
