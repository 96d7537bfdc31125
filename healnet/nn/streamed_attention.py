"""Exact softmax attention to tokens that come in pieces and never exist at once.

The softmax's state is merged over pieces in the forward pass; the backward pass walks the pieces a second time and computes
each again, so that memory holds one piece whatever the number of tokens.

Sources: online softmax, Milakov and Gimelshein 2018 (arXiv 1805.02867); recomputation, Chen et al. 2016 (arXiv 1604.06174).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from healnet.nn.chunked_attention import Attention, accumulation_dtype, chunked_attention, current_autocast
from healnet.nn.softmax import SoftmaxState
from healnet.nn.token_shards import TokenShards

__all__ = ["Walk", "streamed_attention"]

# Starts one pass over the pieces: tokens (1, n, c), their mask (1, n) or None, in the same order each time.
Walk = Callable[[], Iterator[tuple[Tensor, Tensor | None]]]


def streamed_attention(
    queries: Tensor,
    walk: Walk,
    parameters: Sequence[Tensor] = (),
    dropout: float = 0.0,
    shards: TokenShards | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Softmax attention `softmax(q x^T) x` to the tokens of a walk, which serve as keys and as values.

    Args:
        queries: Queries, already scaled.
        walk: Function that starts a pass over the pieces; it is called once forward and once backward.
        parameters: Weights that the pieces are computed with, and that need a gradient.
        dropout: Probability of dropping a whole token after the softmax; the rest are scaled by 1 / (1 - dropout).
        shards: Processes that walk the other pieces of the same tokens, for the same queries.

    Shape:
        queries: (1, r, c); each piece: (1, n, c)

    Returns:
        output (1, r, c), mass (1, r) = the sum of the probabilities after dropout, and lse (1, r).
    """
    # Drawn from torch's generator, so that a seeded run repeats; the tokens to drop follow from it, in both passes.
    seed = int(torch.randint(2**62, ())) if dropout > 0 else None
    if seed is not None and shards is not None:
        seed += shards.rank
    return _StreamedAttention.apply(queries, walk, dropout, seed, shards, *parameters)  # type: ignore[no-untyped-call]


class _StreamedAttention(torch.autograd.Function):
    """Both passes of `streamed_attention`, in which each piece has a share w = exp(lse_piece - lse) of the output.

    The output is the sum of w out_piece over the pieces, so that its gradient can be taken piece by piece.
    """

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        walk: Walk,
        dropout: float,
        seed: int | None,
        shards: TokenShards | None,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.autocast = current_autocast(queries.device.type)
        state: SoftmaxState | None = None
        for tokens, mask, kept in _with_dropout(walk, dropout, seed):
            piece = chunked_attention(queries, tokens, tokens, mask, kept).state()
            state = piece if state is None else state.merge(piece)
        if state is None:  # not one piece
            none = queries.new_zeros(queries.shape[:2], dtype=accumulation_dtype(queries.dtype))
            values = none.unsqueeze(-1).repeat(1, 1, queries.shape[-1] + 1)
            state = SoftmaxState(none - torch.inf, none, values)
        if shards is not None:
            state = shards.merge(state)
        output, mass, lse = Attention.of_state(state, queries.dtype)
        ctx.walk, ctx.dropout, ctx.seed, ctx.shards = walk, dropout, seed, shards
        ctx.save_for_backward(queries, output, mass, lse, *parameters)
        return output, mass, lse

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_output: Tensor, grad_mass: Tensor, grad_lse: Tensor
    ) -> tuple[Tensor | None, ...]:
        queries, output, mass, lse, *parameters = ctx.saved_tensors
        leaf = queries.detach().requires_grad_()
        wanted = [leaf, *(parameter for parameter in parameters if parameter.requires_grad)]
        sums: list[Tensor] = [torch.zeros_like(x) for x in wanted]
        grad = grad_output.to(lse.dtype)
        with torch.enable_grad(), ctx.autocast():
            for tokens, mask, kept in _with_dropout(ctx.walk, ctx.dropout, ctx.seed):
                out, m, part = chunked_attention(leaf, tokens, tokens, mask, kept)
                with torch.no_grad():
                    # Where nothing was seen, in this piece or in all, the share is zero and not exp(inf - inf).
                    share = (part - lse).exp().masked_fill(torch.isneginf(part), 0)
                    slope = (
                        (grad * (out - output).to(lse.dtype)).sum(dim=-1) + grad_mass * (m - mass) + grad_lse
                    )
                pairs = [
                    (out, (share.unsqueeze(-1) * grad).to(out.dtype)),
                    (part, (share * slope).masked_fill(share == 0, 0).to(part.dtype)),
                ]
                if m.requires_grad:
                    pairs.append((m, (share * grad_mass).to(m.dtype)))
                slopes = torch.autograd.grad(
                    [result for result, _ in pairs], wanted, [g for _, g in pairs], allow_unused=True
                )
                for total, more in zip(sums, slopes, strict=True):
                    if more is not None:
                        total += more
        if ctx.shards is not None:
            sums = [ctx.shards.total(total) for total in sums]
        found = iter(sums[1:])
        rest = [next(found) if parameter.requires_grad else None for parameter in parameters]
        return (sums[0] if ctx.needs_input_grad[0] else None, None, None, None, None, *rest)


def _with_dropout(
    walk: Walk, dropout: float, seed: int | None
) -> Iterator[tuple[Tensor, Tensor | None, Tensor | None]]:
    """The pieces, each with the weights of its tokens after dropout: the same in every pass."""
    generator = None
    for tokens, mask in walk():
        kept = None
        if seed is not None:
            if generator is None:
                generator = torch.Generator(tokens.device).manual_seed(seed)
            drawn = torch.rand(tokens.shape[:2], generator=generator, device=tokens.device)
            kept = (drawn >= dropout).to(tokens.dtype) / (1 - dropout)
        yield tokens, mask, kept
