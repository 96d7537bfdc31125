"""Cross-attention from few latents to many raw tokens, and self-attention among the latents.

Never build keys and values for raw tokens. With z the standardised tokens (LayerNorm without its affine part), gain g, bias
β and, per head, Wq, Wk, Wv:

    score = (LN(s) Wq) . ((g z + β) Wk) = [(LN(s) Wq Wk^T) g] . z + const      the constant cancels in the softmax
    out   = Σ a (g z + β) Wv            = [(Σ a z) g + (Σ a) β] Wv              Σ a = 1 but for dropout

so all heads attend to the *same* z, with queries folded into token space and no projection of the n tokens at all. That is
the *token* association; the *projected* one builds keys and values first. Both give the same numbers to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from healnet.nn.online import attention_weights, online_attention
from healnet.nn.streamed_attention import Walk, streamed_attention

__all__ = ["Association", "Attended", "CrossAttention", "SelfAttention", "cheaper_association"]

Association = Literal["token", "projected"]

# Keys and values of one projected attention may take this many elements (1 GiB in float32). Beyond, token space is used even
# where it multiplies more, so that memory stays bounded however many tokens there are.
PROJECTED_ELEMENTS = 2**28


def cheaper_association(num_latents: int, token_dim: int, head_dim: int) -> Association:
    """Which association takes fewer multiplications.

    For h heads, m latents, n tokens of width c and heads of width e, *token* takes 4 h m n c and *projected* takes
    4 n c h e + 4 h m n e; so *token* wins when m c / (m + c) < e.

    Example:
        >>> cheaper_association(num_latents=128, token_dim=18, head_dim=64)  # voxels
        'token'
        >>> cheaper_association(num_latents=128, token_dim=1024, head_dim=64)  # patch features, many latents
        'projected'
    """
    return "token" if num_latents * token_dim < head_dim * (num_latents + token_dim) else "projected"


@dataclass(frozen=True)
class Attended:
    """One attention, finished: enough to make its weights again, reduced, without ever having stored them.

    Shape:
        queries: (B, g * m, c), keys: (B, n, c), values: (B, n, v), output: (B, g * m, v), lse: (B, g * m), mask: (B, n); in
        token space B is the number of patients and g the heads, projected B is patients times heads and g is one.
    """

    queries: Tensor
    keys: Tensor
    values: Tensor
    output: Tensor
    lse: Tensor
    mask: Tensor | None
    token_weights: Tensor | None
    num_heads: int
    num_latents: int

    @torch.no_grad()
    def weights(self, keep: str = "none", grad_output: Tensor | None = None) -> Tensor:
        """Attention weights averaged over heads and latents unless kept; before dropout.

        Args:
            keep: "none", "heads", "latents" or "both".
            grad_output: the gradient of some quantity with respect to `output`; every weight is then multiplied by its own
                gradient before the mean: the first-order effect of the weight on that quantity.

        Shape:
            returns: (b, n), (b, h, n), (b, m, n) or (b, h, m, n)
        """
        folded = self.queries.shape[1] == self.num_latents  # the heads are among the batches
        heads, latents = keep in ("heads", "both"), keep in ("latents", "both")
        values = self.values
        if self.token_weights is not None and grad_output is not None:
            values = values * self.token_weights.unsqueeze(-1)
        weights = attention_weights(
            self.queries,
            self.keys,
            self.lse,
            groups=1 if folded else self.num_heads,
            mask=self.mask,
            keep_groups=heads and not folded,
            keep_rows=latents,
            slopes=None if grad_output is None else (grad_output, values),
        )
        if folded:
            weights = weights.unflatten(0, (len(weights) // self.num_heads, self.num_heads))
            weights = weights if heads else weights.mean(dim=1)
        return weights


class CrossAttention(nn.Module):
    """`CrossAttention(LN(S), LN(X))` of HEALNet (arXiv 2311.09115, eq. 2) for standardised tokens.

    Dropout drops whole tokens of a patient, for all heads and latents of this attention, after the softmax, and scales the
    rest by 1 / (1 - p): the expectation is that of dropping single weights, the cost is O(n), and both associations drop the
    same for the same seed.

    Args:
        latent_dim: width d of the latents.
        token_dim: width c of the tokens.
        num_heads: heads h.
        head_dim: width e of a head.
        dropout: probability of dropping a token.
        temperature: divides the scores before the softmax.
        activation: applied after the output projection (the authors' release has LeakyReLU there; the paper has nothing).

    Shape:
        latents: (b, m, d); tokens: (b, n, c), standardised; mask: (b, n), True = real; returns (b, m, d)

    Raises:
        ValueError: a temperature that is not positive.
    """

    def __init__(
        self,
        latent_dim: int,
        token_dim: int,
        num_heads: int = 4,
        head_dim: int = 32,
        dropout: float = 0.0,
        temperature: float = 1.0,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"expected a temperature above 0, got {temperature}")
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.dropout = dropout
        self.scale = head_dim**-0.5 / temperature
        self.norm = nn.LayerNorm(latent_dim)
        self.gain = nn.Parameter(torch.ones(token_dim))
        self.bias = nn.Parameter(torch.zeros(token_dim))
        self.to_q = nn.Linear(latent_dim, num_heads * head_dim, bias=False)
        self.to_k = nn.Linear(token_dim, num_heads * head_dim, bias=False)
        self.to_v = nn.Linear(token_dim, num_heads * head_dim, bias=False)
        self.to_out = nn.Linear(num_heads * head_dim, latent_dim)
        self.activation = nn.Identity() if activation is None else activation

    def forward(
        self,
        latents: Tensor,
        tokens: Tensor,
        mask: Tensor | None = None,
        association: Association | None = None,
    ) -> Tensor:
        """The update of the latents; `association` overrides the cost rule."""
        return self.attend(latents, tokens, mask, association)[0]

    def attend(
        self,
        latents: Tensor,
        tokens: Tensor,
        mask: Tensor | None = None,
        association: Association | None = None,
    ) -> tuple[Tensor, Attended]:
        """The update, and what is needed to look at the attention afterwards."""
        if association is None:
            association = self._choose(latents, tokens)
        queries = self._queries(latents)
        keep = self._token_dropout(tokens)
        attend = self._in_token_space if association == "token" else self._projected
        heads, attended = attend(queries, tokens.to(queries.dtype), mask, keep)
        update = self.to_out(rearrange(heads, "b h m e -> b m (h e)"))
        return self.activation(update), attended

    def attend_pieces(
        self, latents: Tensor, walks: Sequence[Walk | None], parameters: Sequence[Tensor] = ()
    ) -> tuple[Tensor, list[Attended | None]]:
        """The update by tokens that come in pieces, always in token space, and per patient what makes weights of a piece.

        Args:
            latents: Latents (b, m, d).
            walks: Per patient the function that starts a pass over standardized tokens (1, n, c); None if there are none.
            parameters: Weights that the tokens are computed with, and that need a gradient.
        """
        queries = self._queries(latents)  # (b, h, m, e)
        dropout = self.dropout if self.training else 0.0
        outputs, masses, attended = [], [], []
        to_k = rearrange(self.to_k.weight * self.gain, "(h e) c -> h e c", h=self.num_heads)
        folded = rearrange(torch.einsum("bhme,hec->bhmc", queries, to_k), "b h m c -> b (h m) c")
        for row, walk in zip(folded.split(1), walks, strict=True):
            if walk is None:
                output, mass, lse = row * 0, row.detach()[..., 0] * 0, None
            else:
                output, mass, lse = streamed_attention(row, walk, parameters, dropout)
            outputs.append(output)
            masses.append(mass)
            none = row.detach()[:, :0]
            attended.append(
                None
                if lse is None
                else Attended(row, none, none, output, lse, None, None, self.num_heads, queries.shape[2])
            )
        update = self.to_out(
            rearrange(self._values(torch.cat(outputs), torch.cat(masses)), "b h m e -> b m (h e)")
        )
        return self.activation(update), attended

    def _queries(self, latents: Tensor) -> Tensor:
        """(b, m, d) -> (b, h, m, e), scaled."""
        return rearrange(self.to_q(self.norm(latents)) * self.scale, "b m (h e) -> b h m e", h=self.num_heads)

    def _values(self, output: Tensor, mass: Tensor) -> Tensor:
        """Means of standardized tokens (b, h m, c), whose weights sum to mass (b, h m), as heads (b, h, m, e)."""
        to_v = rearrange(self.to_v.weight, "(h e) c -> h e c", h=self.num_heads)
        mean = output * self.gain + mass.unsqueeze(-1).to(self.bias.dtype) * self.bias
        mean = rearrange(mean, "b (h m) c -> b h m c", h=self.num_heads)
        return torch.einsum("bhmc,hec->bhme", mean, to_v)

    def _choose(self, latents: Tensor, tokens: Tensor) -> Association:
        batch, n, token_dim = tokens.shape
        if 2 * batch * n * self.num_heads * self.head_dim > PROJECTED_ELEMENTS:
            return "token"
        return cheaper_association(latents.shape[1], token_dim, self.head_dim)

    def _token_dropout(self, tokens: Tensor) -> Tensor | None:
        if not self.training or self.dropout == 0:
            return None
        return F.dropout(tokens.new_ones(tokens.shape[:2]), self.dropout)

    def _in_token_space(
        self, queries: Tensor, tokens: Tensor, mask: Tensor | None, keep: Tensor | None
    ) -> tuple[Tensor, Attended]:
        to_k = rearrange(self.to_k.weight * self.gain, "(h e) c -> h e c", h=self.num_heads)
        folded = rearrange(torch.einsum("bhme,hec->bhmc", queries, to_k), "b h m c -> b (h m) c")
        output, mass, lse = online_attention(folded, tokens, tokens, mask, keep)
        attended = Attended(
            folded, tokens, tokens, output, lse, mask, keep, self.num_heads, num_latents=queries.shape[2]
        )
        return self._values(output, mass), attended

    def _projected(
        self, queries: Tensor, tokens: Tensor, mask: Tensor | None, keep: Tensor | None
    ) -> tuple[Tensor, Attended]:
        h = self.num_heads
        keys = rearrange(F.linear(tokens, self.to_k.weight * self.gain), "b n (h e) -> (b h) n e", h=h)
        values = rearrange(F.linear(tokens, self.to_v.weight * self.gain), "b n (h e) -> (b h) n e", h=h)
        mask, keep = (None if x is None else x.repeat_interleave(h, dim=0) for x in (mask, keep))
        flat = rearrange(queries, "b h m e -> (b h) m e")
        output, mass, lse = online_attention(flat, keys, values, mask, keep)
        attended = Attended(flat, keys, values, output, lse, mask, keep, h, num_latents=queries.shape[2])
        shift = rearrange(self.to_v(self.bias), "(h e) -> h 1 e", h=h)
        output = rearrange(output, "(b h) m e -> b h m e", h=h)
        mass = rearrange(mass.to(self.bias.dtype), "(b h) m -> b h m 1", h=h)
        return output + mass * shift, attended


class SelfAttention(nn.Module):
    """Multi-head self-attention among the latents, after a LayerNorm.

    Args:
        dim: width d of the latents.
        num_heads: heads h.
        head_dim: width e of a head.
        dropout: probability of dropping an attention weight.
        temperature: divides the scores before the softmax.
        activation: applied after the output projection.

    Shape:
        (b, m, d) -> (b, m, d)

    Raises:
        ValueError: a temperature that is not positive.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 4,
        head_dim: int = 32,
        dropout: float = 0.0,
        temperature: float = 1.0,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"expected a temperature above 0, got {temperature}")
        self.num_heads = num_heads
        self.dropout = dropout
        self.scale = head_dim**-0.5 / temperature
        self.norm = nn.LayerNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * num_heads * head_dim, bias=False)
        self.to_out = nn.Linear(num_heads * head_dim, dim)
        self.activation = nn.Identity() if activation is None else activation

    def _split(self, latents: Tensor) -> tuple[Tensor, ...]:
        qkv = rearrange(
            self.to_qkv(self.norm(latents)), "b m (three h e) -> three b h m e", three=3, h=self.num_heads
        )
        return qkv.unbind(0)

    def forward(self, latents: Tensor) -> Tensor:
        """The update of the latents."""
        q, k, v = self._split(latents)
        dropout = self.dropout if self.training else 0.0
        heads = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=self.scale)
        return self.activation(self.to_out(rearrange(heads, "b h m e -> b m (h e)")))

    @torch.no_grad()
    def weights(self, latents: Tensor) -> Tensor:
        """(b, m, m): who attends (rows) to whom (columns), averaged over heads; rows sum to one."""
        q, k, _ = self._split(latents)
        scores = torch.einsum("bhme,bhne->bhmn", q, k) * self.scale
        return scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32)).mean(dim=1)
