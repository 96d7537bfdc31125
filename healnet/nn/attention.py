"""Cross-attention from few latents to many raw tokens, and self-attention among the latents.

Never build keys and values for raw tokens. With z the standardized tokens (LayerNorm without its affine part), weight w and
bias β of that LayerNorm and, per head, Wq, Wk, Wv:

    score = (LN(s) Wq) . ((w z + β) Wk) = [(LN(s) Wq Wk^T) w] . z + const      the constant cancels in the softmax
    out   = Σ a (w z + β) Wv            = [(Σ a z) w + (Σ a) β] Wv              Σ a = 1 but for dropout

so all heads attend to the *same* z, with queries contracted with Wk instead of the n tokens: the *token* order. The
*projected* order builds keys and values first. Both give the same numbers to rounding.

Shapes by letter: `b` patients, `m` latents, `d` latent width, `h` heads, `e` head width, `n` tokens, `c` token width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from healnet.nn.attention_weights import Attended, ContractionOrder
from healnet.nn.chunked_attention import chunked_attention
from healnet.nn.streamed_attention import Walk, streamed_attention
from healnet.nn.token_shards import TokenShards
from healnet.nn.torch_internals import fused_attention

__all__ = ["CrossAttention", "SelfAttention", "contraction_order"]

# Keys and values of one projected attention may take this many elements (1 GiB in float32). Beyond, token space is used even
# where it multiplies more, so that memory stays bounded however many tokens there are.
PROJECTED_ELEMENTS = 2**28


def contraction_order(num_latents: int, token_dim: int, head_dim: int) -> ContractionOrder:
    """The order of contraction that takes fewer multiplications.

    For h heads, m latents, n tokens of width c and heads of width e, *token* takes 4 h m n c and *projected* takes
    4 n c h e + 4 h m n e; so *token* wins when m c / (m + c) < e.

    Example:
        >>> contraction_order(num_latents=128, token_dim=18, head_dim=64)  # voxels
        'token'
        >>> contraction_order(num_latents=128, token_dim=1024, head_dim=64)  # patch features, many latents
        'projected'
    """
    return "token" if num_latents * token_dim < head_dim * (num_latents + token_dim) else "projected"


class CrossAttention(nn.Module):
    """`CrossAttention(LN(S), LN(X))` of HEALNet (arXiv 2311.09115, eq. 2) for standardized tokens.

    Dropout drops whole tokens of a patient, for all heads and latents of this attention, after the softmax, and scales the
    rest by 1 / (1 - p): the expectation is that of dropping single weights, the cost is O(n), and both orders drop the
    same for the same seed.

    Args:
        latent_dim: Width d of the latents.
        token_dim: Width c of the tokens.
        num_heads: Heads h.
        head_dim: Width e of a head.
        dropout: Probability of dropping a token.
        temperature: Divisor of the scores before the softmax.
        activation: Module applied after the output projection (the authors' release has LeakyReLU there; the paper has
            nothing).

    Shape:
        latents: (b, m, d); tokens: (b, n, c), standardized; mask: (b, n), True = real; returns (b, m, d)

    Raises:
        ValueError: A temperature that is not positive.
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
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.dropout = dropout
        self.temperature = _positive(temperature)
        self.norm = nn.LayerNorm(latent_dim)
        self.token_norm = nn.LayerNorm(token_dim)  # weight and bias alone: tokens arrive standardized
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
        order: ContractionOrder | None = None,
    ) -> Tensor:
        """The update of the latents; `order` overrides the cost rule."""
        return self.attend(latents, tokens, mask, order)[0]

    def attend(
        self,
        latents: Tensor,
        tokens: Tensor,
        mask: Tensor | None = None,
        order: ContractionOrder | None = None,
        shards: TokenShards | None = None,
    ) -> tuple[Tensor, Attended]:
        """The update, and what is needed to look at the attention afterwards.

        Args:
            latents: Latents, the same in every process of `shards`.
            tokens: Standardized tokens, of this process.
            mask: True = real.
            order: Order of contraction; by default the cheaper one.
            shards: Processes that have the other tokens. The order is then always "token", whose weights are all on the side
                of the latents, so that no gradient is a part of one process.
        """
        if shards is not None:
            order = "token"
        elif order is None:
            order = self._choose(latents, tokens)
        queries = self._queries(latents)  # (b, h, m, e)
        kept = self._token_dropout(tokens, shards)  # (b, n) or None
        tokens = tokens.to(queries.dtype)
        if order == "token":
            heads, attended = self._in_token_space(queries, tokens, mask, kept, shards)  # (b, h, m, e)
        else:
            heads, attended = self._projected(queries, tokens, mask, kept)
        update = self.to_out(rearrange(heads, "b h m e -> b m (h e)"))  # (b, m, d)
        return self.activation(update), attended

    def attend_pieces(
        self,
        latents: Tensor,
        walks: Sequence[Walk | None],
        parameters: Sequence[Tensor] = (),
        shards: TokenShards | None = None,
    ) -> tuple[Tensor, list[Attended | None]]:
        """The update by tokens that come in pieces, always in token space, and per patient what makes weights of a piece.

        Args:
            latents: Latents (b, m, d).
            walks: Per patient the function that starts a pass over standardized tokens (1, n, c); None if there are none.
            parameters: Weights that the tokens are computed with, and that need a gradient.
            shards: Processes that walk the other pieces of the same patients.
        """
        dropout = self.dropout if self.training else 0.0
        outputs, masses = [], []
        attended: list[Attended | None] = []
        for row, walk in zip(self._fold(self._queries(latents)).split(1), walks, strict=True):  # (1, h m, c)
            if walk is None:
                output, mass = row * 0, row.detach()[..., 0] * 0
                attended.append(None)
            else:
                output, mass, lse = streamed_attention(row, walk, parameters, dropout, shards)
                none = row.detach()[:, :0]  # (1, 0, c): the tokens are not kept
                attended.append(
                    Attended("token", self.num_heads, row, none, none, output, lse, None, None, whole=False)
                )
            outputs.append(output)
            masses.append(mass)
        heads = self._unfold(torch.cat(outputs), torch.cat(masses))  # (b, h, m, e)
        update = self.to_out(rearrange(heads, "b h m e -> b m (h e)"))
        return self.activation(update), attended

    def _queries(self, latents: Tensor) -> Tensor:
        """(b, m, d) -> (b, h, m, e), scaled."""
        queries = self.to_q(self.norm(latents)) * (self.head_dim**-0.5 / self.temperature)
        return rearrange(queries, "b m (h e) -> b h m e", h=self.num_heads)

    def _fold(self, queries: Tensor) -> Tensor:
        """Queries (b, h, m, e) in token space, heads in rows: (b, h m, c)."""
        to_k = rearrange(self.to_k.weight * self.token_norm.weight, "(h e) c -> h e c", h=self.num_heads)
        return rearrange(torch.einsum("bhme,hec->bhmc", queries, to_k), "b h m c -> b (h m) c")

    def _unfold(self, output: Tensor, mass: Tensor) -> Tensor:
        """Means of standardized tokens (b, h m, c), whose weights sum to mass (b, h m), as heads (b, h, m, e)."""
        to_v = rearrange(self.to_v.weight, "(h e) c -> h e c", h=self.num_heads)
        weight, bias = self.token_norm.weight, self.token_norm.bias
        mean = output * weight + mass.unsqueeze(-1).to(bias.dtype) * bias  # Σ a (w z + β)
        mean = rearrange(mean, "b (h m) c -> b h m c", h=self.num_heads)
        return torch.einsum("bhmc,hec->bhme", mean, to_v)

    def _choose(self, latents: Tensor, tokens: Tensor) -> ContractionOrder:
        batch, n, token_dim = tokens.shape
        if 2 * batch * n * self.num_heads * self.head_dim > PROJECTED_ELEMENTS:
            return "token"
        return contraction_order(latents.shape[1], token_dim, self.head_dim)

    def _token_dropout(self, tokens: Tensor, shards: TokenShards | None) -> Tensor | None:
        if not self.training or self.dropout == 0:
            return None
        if shards is None:
            return F.dropout(tokens.new_ones(tokens.shape[:2]), self.dropout)
        # Each process draws for its own tokens, and leaves torch's generator as the others do.
        seed = int(torch.randint(2**62, ())) + shards.rank
        generator = torch.Generator(tokens.device).manual_seed(seed)
        drawn = torch.rand(tokens.shape[:2], generator=generator, device=tokens.device)
        return (drawn >= self.dropout).to(tokens.dtype) / (1 - self.dropout)

    def _in_token_space(
        self,
        queries: Tensor,
        tokens: Tensor,
        mask: Tensor | None,
        kept: Tensor | None,
        shards: TokenShards | None = None,
    ) -> tuple[Tensor, Attended]:
        """Heads in rows: all of them read the same tokens."""
        in_rows = self._fold(queries)
        output, mass, lse = chunked_attention(in_rows, tokens, tokens, mask, kept, shards)  # (b, h m, c)
        attended = Attended(
            "token", self.num_heads, in_rows, tokens, tokens, output, lse, mask, kept, whole=shards is None
        )
        return self._unfold(output, mass), attended

    def _projected(
        self, queries: Tensor, tokens: Tensor, mask: Tensor | None, kept: Tensor | None
    ) -> tuple[Tensor, Attended]:
        """Heads in the batch: each has keys and values of its own."""
        h, weight, bias = self.num_heads, self.token_norm.weight, self.token_norm.bias
        keys = rearrange(F.linear(tokens, self.to_k.weight * weight), "b n (h e) -> (b h) n e", h=h)
        values = rearrange(F.linear(tokens, self.to_v.weight * weight), "b n (h e) -> (b h) n e", h=h)
        mask, kept = (None if x is None else x.repeat_interleave(h, dim=0) for x in (mask, kept))  # (b h, n)
        in_batch = rearrange(queries, "b h m e -> (b h) m e")
        output, mass, lse = chunked_attention(in_batch, keys, values, mask, kept)  # (b h, m, e)
        attended = Attended("projected", h, in_batch, keys, values, output, lse, mask, kept)
        shift = rearrange(self.to_v(bias), "(h e) -> h 1 e", h=h)  # β Wv
        output = rearrange(output, "(b h) m e -> b h m e", h=h)
        mass = rearrange(mass.to(bias.dtype), "(b h) m -> b h m 1", h=h)
        return output + mass * shift, attended


class SelfAttention(nn.Module):
    """Multi-head self-attention among the latents, after a LayerNorm.

    Args:
        dim: Width d of the latents.
        num_heads: Heads h.
        head_dim: Width e of a head.
        dropout: Probability of dropping an attention weight.
        temperature: Divisor of the scores before the softmax.
        activation: Module applied after the output projection.

    Shape:
        (b, m, d) -> (b, m, d)

    Raises:
        ValueError: A temperature that is not positive.
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
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.dropout = dropout
        self.temperature = _positive(temperature)
        self.norm = nn.LayerNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * num_heads * head_dim, bias=False)
        self.to_out = nn.Linear(num_heads * head_dim, dim)
        self.activation = nn.Identity() if activation is None else activation

    def _split(self, latents: Tensor) -> tuple[Tensor, ...]:
        """Queries, with their scale, keys and values: (b, h, m, e) each."""
        qkv = self.to_qkv(self.norm(latents))
        q, k, v = rearrange(qkv, "b m (three h e) -> three b h m e", three=3, h=self.num_heads).unbind(0)
        return q * (self.head_dim**-0.5 / self.temperature), k, v

    def forward(self, latents: Tensor) -> Tensor:
        """The update of the latents."""
        q, k, v = self._split(latents)
        dropout = self.dropout if self.training else 0.0
        heads = fused_attention(q, k, v, dropout)
        return self.activation(self.to_out(rearrange(heads, "b h m e -> b m (h e)")))

    @torch.no_grad()
    def weights(self, latents: Tensor) -> Tensor:
        """(b, m, m): who attends (rows) to whom (columns), averaged over heads; rows sum to one."""
        q, k, _ = self._split(latents)
        scores = torch.einsum("bhme,bhne->bhmn", q, k)  # n: the latents that are attended to
        return scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32)).mean(dim=1)


def _positive(temperature: float) -> float:
    if not temperature > 0:
        raise ValueError(f"expected a temperature above 0, got {temperature}")
    return temperature
