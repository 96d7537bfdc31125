"""Exact softmax attention in O(chunk) memory.

`chunked_attention` never builds more than a chunk of the score matrix, forward or backward, and skips the gradient of keys
and values that are data. Attention over some of the tokens is a `SoftmaxState`, which merges with that over the others, and
the gradient over some of the tokens needs only the output and log-sum-exp over all of them: `attend` and `differentiate`
below are the two halves, for tokens that come in pieces or lie in several processes.

Shapes by letter: `B` independent attentions (patients, or patients times heads), `r` queries of each, `n` tokens, `c` width
of queries and keys, `v` width of values.

Sources: online softmax, Milakov and Gimelshein 2018 (arXiv 1805.02867); backward by recomputation, Rabe and Staats 2021
(arXiv 2112.05682) and Dao et al. 2022 (arXiv 2205.14135).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from healnet.nn.softmax import SoftmaxState, finite_lse
from healnet.nn.token_shards import TokenShards
from healnet.nn.torch_internals import flash_attention_cpu, function_transforms_active

__all__ = [
    "Attention",
    "Saved",
    "accumulation_dtype",
    "attend",
    "chunk_length",
    "chunked_attention",
    "current_autocast",
    "differentiate",
    "exponentials",
    "no_autocast",
]

# Scores held at once: 1 MiB in float32, so that a chunk lives in the second-level cache. Measured over 150,528 tokens and
# 1,024 queries, backward, processor seconds: 0.31 at 2^16, 0.29 from 2^17 to 2^19, 0.31 at 2^20.
CHUNK_ELEMENTS = 2**18
# GPUs want fewer, larger launches; 64 MiB in float32.
CHUNK_ELEMENTS_GPU = 2**24
# Exponentials are taken as powers of two, of scores in units of ln 2. Per score, float32, one core, torch 2.13: exp2 takes
# 0.17 ns, exp 0.64 ns, and the product that the scores of 18 channels come from 0.40 ns.
LOG2_E = math.log2(math.e)
# Up to this many scores the probabilities are simply kept for the backward pass: 16 MiB in float32.
KEEP_ELEMENTS = 2**22


class Attention(NamedTuple):
    """The result of attention, and the gradients with respect to it.

    Shape:
        output: (B, r, v) the weighted mean of the values; zero where no token is real.
        mass: (B, r) the sum of the probabilities after `token_weights`: one without them, zero where no token is real.
        lse: (B, r) the log-sum-exp of the scores; -inf where no token is real.
    """

    output: Tensor
    mass: Tensor
    lse: Tensor

    def state(self) -> SoftmaxState:
        """The state that merges with that over other tokens; its values are the output with the mass beside it."""
        output = self.output.to(self.lse.dtype)
        return SoftmaxState.from_output(torch.cat((output, self.mass.unsqueeze(-1)), dim=-1), self.lse)

    @classmethod
    def of_state(cls, state: SoftmaxState, dtype: torch.dtype) -> Attention:
        """The attention over all tokens whose states were merged, with an output of this type."""
        both = state.output()  # (B, r, v + 1)
        return cls(both[..., :-1].to(dtype), both[..., -1], state.lse())


class Saved(NamedTuple):
    """Tensors that the gradient over some tokens is made of: the queries, these tokens, and the result over all tokens.

    Shape:
        queries: (B, r, c); keys: (B, n, c); values: (B, n, v); mask, token_weights: (B, n)
        output, mass, lse: as in `Attention`.
        probabilities: (B, r, n) where there were few enough to keep.
    """

    queries: Tensor
    keys: Tensor
    values: Tensor
    mask: Tensor | None
    token_weights: Tensor | None
    output: Tensor
    mass: Tensor
    lse: Tensor
    probabilities: Tensor | None


def chunked_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None = None,
    token_weights: Tensor | None = None,
    shards: TokenShards | None = None,
) -> Attention:
    """Softmax attention `softmax(q k^T) v` over (batches of) tokens, exact, in O(chunk) memory.

    No scale is applied: fold it into the queries. Statistics, softmax and sums are in float32 for half-precision inputs. All
    three results are differentiable, twice if needed (the second derivative builds the full score matrix).

    Args:
        queries: Queries, one row per query.
        keys: Keys; the very same tensor may be passed as `values`.
        values: Values.
        mask: True = real. A row without a real token gives zeros, a log-sum-exp of -inf, and zero gradients. What is masked
            must be finite all the same.
        token_weights: Factor of each token's probability after the softmax (whole-token dropout); gets no gradient.
        shards: Processes that have the other tokens of the same queries; differentiable once.

    Shape:
        queries: (B, r, c); keys: (B, n, c); values: (B, n, v); mask, token_weights: (B, n)

    Raises:
        RuntimeError: `shards` inside of a function transform or a compiled graph.
    """
    compiling = torch.compiler.is_compiling()
    if shards is not None and (compiling or function_transforms_active()):
        raise RuntimeError("attention over several processes can be neither compiled nor transformed")
    if compiling or function_transforms_active():
        attention = _plain_attention(queries, keys, values, mask, token_weights)
        if compiling and token_weights is None:
            # A compiler drops what `_plain_attention` did for an output that is not read.
            attention = attention._replace(output=_fused_output(queries, keys, values, mask))
        return attention
    result = _ChunkedAttention.apply(queries, keys, values, mask, token_weights, shards)  # type: ignore[no-untyped-call]
    return Attention(*result)


def no_autocast(device: str) -> AbstractContextManager[Any]:
    """A context in which types stay as they are; some devices (meta) know no autocast at all."""
    known = torch.amp.is_autocast_available(device)
    return torch.autocast(device, enabled=False) if known else nullcontext()


def current_autocast(device: str) -> Callable[[], AbstractContextManager[Any]]:
    """A function that makes the context of autocast that holds now, for what is computed later."""
    if not torch.amp.is_autocast_available(device):
        return nullcontext
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    return lambda: torch.autocast(device, dtype=dtype, enabled=enabled)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type of statistics and sums: float32 for half precision."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def chunk_length(queries: Tensor) -> int:
    """Tokens per chunk."""
    budget = CHUNK_ELEMENTS if queries.device.type == "cpu" else CHUNK_ELEMENTS_GPU
    return max(64, budget // max(1, queries.shape[1]))


def exponentials(left: Tensor, right: Tensor, shift: Tensor, dtype: torch.dtype) -> Tensor:
    """`exp(left @ right^T - shift)`: (B, r, c), (B, n, c), (B, r, 1) -> (B, r, n)."""
    return _shifted_product(left, right, shift, dtype, LOG2_E).exp2_()


def _shifted_product(
    left: Tensor, right: Tensor, shift: Tensor, dtype: torch.dtype, factor: float = 1.0
) -> Tensor:
    """`factor * (left @ right^T - shift)`, (B, r, n); one fused call where the types allow it."""
    transposed = right.transpose(1, 2)
    if left.dtype == dtype:
        start = (shift * -factor).expand(-1, -1, right.shape[1])
        return torch.baddbmm(start, left, transposed, alpha=factor)
    return torch.bmm(left, transposed).to(dtype).sub_(shift).mul_(factor)


def _softmax(queries: Tensor, keys: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """exp(scores - maximum) (B, r, n), 0 at masked tokens, the maximum (B, r), -inf where none is real, and their sum."""
    dtype, transposed = accumulation_dtype(queries.dtype), keys.transpose(1, 2)
    if queries.dtype == dtype:
        scores = torch.baddbmm(queries.new_zeros(1, 1, 1), queries, transposed, beta=0, alpha=LOG2_E)
    else:
        scores = torch.bmm(queries, transposed).to(dtype).mul_(LOG2_E)
    if mask is not None:
        scores = scores.masked_fill_(~mask.unsqueeze(1), -math.inf)
    top = scores.amax(dim=-1)
    weights = scores.sub_(finite_lse(top).unsqueeze(-1)).exp2_()
    return weights, top / LOG2_E, weights.sum(dim=-1)


def _plain_attention(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, token_weights: Tensor | None
) -> Attention:
    """Unchunked attention of differentiable operations, for torch.compile, function transforms and double backward."""
    scores = torch.bmm(queries, keys.transpose(1, 2)).to(accumulation_dtype(queries.dtype))  # (B, r, n)
    if mask is None:
        seen = scores.new_ones(scores.shape[:2], dtype=torch.bool) & (keys.shape[1] > 0)
    else:
        scores = scores.masked_fill(~mask.unsqueeze(1), -math.inf)
        seen = mask.any(dim=1, keepdim=True).expand(scores.shape[:2])  # (B, r)
    # logsumexp of a row of -inf has a NaN gradient: such rows are computed on zeros and overwritten.
    scores = scores.masked_fill(~seen.unsqueeze(-1), 0)
    lse = scores.logsumexp(dim=-1)  # (B, r)
    weights = (scores - lse.unsqueeze(-1)).exp().masked_fill(~seen.unsqueeze(-1), 0)
    if token_weights is not None:
        weights = weights * token_weights.unsqueeze(1)
    mass = weights.sum(dim=-1) if token_weights is not None else seen.to(weights.dtype)
    output = torch.bmm(weights.to(values.dtype), values)  # (B, r, v)
    return Attention(output, mass, lse.masked_fill(~seen, -math.inf))


def _fused_output(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """The output alone, (B, r, v), by torch's own differentiable attention."""
    bias = None
    if mask is not None:
        seen = mask.any(dim=1, keepdim=True)
        bias = (mask | ~seen)[:, None, None].expand(-1, 1, queries.shape[1], -1)
    q, k, v = (x.unsqueeze(1) for x in (queries, keys, values))  # one head: (B, 1, r or n, c or v)
    output = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0).squeeze(1)
    return output if mask is None else output.masked_fill(~seen.unsqueeze(-1), 0)


class _ChunkedAttention(torch.autograd.Function):
    """The chunked forward and backward pass of `chunked_attention`."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor | None,
        token_weights: Tensor | None,
        shards: TokenShards | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        with no_autocast(queries.device.type):
            attention, probabilities = attend(queries, keys, values, mask, token_weights)
            if shards is not None:
                own = attention.lse
                attention = Attention.of_state(shards.merge(attention.state()), attention.output.dtype)
                if probabilities is not None:
                    probabilities = shards.rescale(probabilities, own, attention.lse)
        ctx.shards = shards
        ctx.save_for_backward(*Saved(queries, keys, values, mask, token_weights, *attention, probabilities))
        return attention.output, attention.mass, attention.lse

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        saved, needs = Saved(*ctx.saved_tensors), ctx.needs_input_grad[:3]
        shards: TokenShards | None = ctx.shards
        if torch.is_grad_enabled():  # create_graph=True: the derivative itself must have a graph
            if shards is not None:
                raise RuntimeError("attention over several processes can be differentiated once")
            gradients = _twice_differentiable(saved, Attention(*slopes), needs)
        else:
            with no_autocast(saved.queries.device.type):
                gradients = differentiate(saved, Attention(*slopes), needs, whole=shards is None)
            if shards is not None and gradients[0] is not None:
                gradients = (shards.total(gradients[0]), *gradients[1:])
        return (*gradients, None, None, None)


def _twice_differentiable(
    saved: Saved, slopes: Attention, needs: tuple[bool, bool, bool]
) -> tuple[Tensor | None, ...]:
    # Keys and values may be one tensor, each with its own share of the gradient.
    queries, keys, values = (x.view_as(x) for x in saved[:3])
    inputs = [x for x, need in zip((queries, keys, values), needs, strict=True) if need]
    # A row that saw nothing has lse = -inf; its gradient is not wanted.
    slopes = slopes._replace(lse=slopes.lse.masked_fill(torch.isneginf(saved.lse), 0))
    results = _plain_attention(queries, keys, values, saved.mask, saved.token_weights)
    # The mass is a constant without token weights.
    pairs = [(result, slope) for result, slope in zip(results, slopes, strict=True) if result.requires_grad]
    outputs, weights = zip(*pairs, strict=True)
    found = iter(torch.autograd.grad(outputs, inputs, weights, create_graph=True, allow_unused=True))
    return tuple(next(found) if need else None for need in needs)


def attend(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, token_weights: Tensor | None
) -> tuple[Attention, Tensor | None]:
    """Attention over these tokens, without a graph, and its probabilities (B, r, n) where they are few enough to keep."""
    batch, rows, _ = queries.shape
    n = keys.shape[1]
    dtype = accumulation_dtype(queries.dtype)
    probabilities = None
    ones = torch.ones(batch, rows, dtype=dtype, device=queries.device)
    if 0 < batch * rows * n <= KEEP_ELEMENTS:
        probabilities, top, total = _softmax(queries, keys, mask)
        lse = top + total.log()
        probabilities.div_(torch.where(total > 0, total, 1).unsqueeze(-1))
        weights = probabilities if token_weights is None else probabilities * token_weights.unsqueeze(1)
        mass = ones if token_weights is None else weights.sum(dim=-1)
        output = torch.bmm(weights.to(values.dtype), values)
    else:
        fused = None if token_weights is not None else flash_attention_cpu(queries, keys, values, mask)
        if fused is not None:
            (output, lse), mass = fused, ones
        else:
            state = _over_chunks(queries, keys, values, mask, token_weights)
            output, mass, lse = Attention.of_state(state, values.dtype)
    if mask is not None or n == 0:
        seen = torch.zeros_like(lse, dtype=torch.bool) if mask is None else mask.any(dim=1, keepdim=True)
        output = output.masked_fill(~seen.expand_as(lse).unsqueeze(-1), 0)
        mass = mass.masked_fill(~seen, 0)
        lse = lse.to(dtype).masked_fill(~seen, -math.inf)
    return Attention(output, mass, lse.to(dtype)), probabilities


def _over_chunks(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, token_weights: Tensor | None
) -> SoftmaxState:
    """The state over all chunks; its values are (B, n, v + 1), the last channel for the mass."""
    batch, rows, _ = queries.shape
    dtype = accumulation_dtype(queries.dtype)
    zeros = torch.zeros(batch, rows, dtype=dtype, device=queries.device)
    state = SoftmaxState(zeros - math.inf, zeros, zeros.unsqueeze(-1).repeat(1, 1, values.shape[-1] + 1))
    step = chunk_length(queries)
    for start in range(0, keys.shape[1], step):
        part = slice(start, start + step)
        shown = None if mask is None else mask[:, part]
        weights, top, total = _softmax(queries, keys[:, part], shown)  # (B, r, step), (B, r), (B, r)
        if token_weights is not None:
            weights.mul_(token_weights[:, part].unsqueeze(1))
        mass = total if token_weights is None else weights.sum(dim=-1)
        weighted = torch.bmm(weights.to(values.dtype), values[:, part]).to(dtype)  # (B, r, v)
        state = state.merge(SoftmaxState(top, total, torch.cat((weighted, mass.unsqueeze(-1)), dim=-1)))
    return state


def differentiate(
    saved: Saved, slopes: Attention, needs: tuple[bool, bool, bool], whole: bool = True
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of queries, keys and values over these tokens, from the result over all tokens.

    The gradient of the queries is the sum over all tokens: that of a part is its share. With p the probabilities and w the
    token weights: ds = p (w (dO v + dmass) - D), where D = dO o + dmass mass - dlse.

    Args:
        saved: The queries, these tokens, and the result over all tokens.
        slopes: Gradients of the loss with respect to that result.
        needs: Flags of queries, keys and values, True where a gradient is needed.
        whole: Whether these are all tokens.
    """
    queries, keys, values, mask, token_weights, output, mass, lse, probabilities = saved
    dtype = accumulation_dtype(queries.dtype)
    seen = ~torch.isneginf(lse)  # (B, r)
    grad_output = slopes.output.masked_fill(~seen.unsqueeze(-1), 0)
    grad_lse = slopes.lse.masked_fill(~seen, 0)
    center = (grad_output.to(dtype) * output.to(dtype)).sum(dim=-1) - grad_lse  # (B, r): D
    if token_weights is not None:
        center = center + slopes.mass * mass
    low = grad_output.to(values.dtype)
    grad_queries = torch.zeros(queries.shape, dtype=dtype, device=queries.device) if needs[0] else None
    grad_keys = torch.empty_like(keys) if needs[1] else None
    grad_values = torch.empty_like(values) if needs[2] else None
    shift = finite_lse(lse).unsqueeze(-1)
    n = keys.shape[1]
    step = n if probabilities is not None else chunk_length(queries)
    for start in range(0, n, max(1, step)):
        part = slice(start, start + step)
        if probabilities is not None:
            weights = probabilities
        else:
            weights = exponentials(queries, keys[:, part], shift, dtype)  # (B, r, step): p
            if mask is not None:
                weights = weights.masked_fill_(~mask[:, part].unsqueeze(1), 0)
        if grad_values is not None:
            dropped = weights if token_weights is None else weights * token_weights[:, part].unsqueeze(1)
            grad_values[:, part] = torch.bmm(dropped.to(low.dtype).transpose(1, 2), low)
        if grad_queries is None and grad_keys is None:
            continue
        if token_weights is None and probabilities is None:
            slope = _shifted_product(low, values[:, part], center.unsqueeze(-1), dtype)  # (B, r, step)
        else:
            slope = torch.bmm(low, values[:, part].transpose(1, 2)).to(dtype)
            if token_weights is not None:
                slope = (slope + slopes.mass.unsqueeze(-1)).mul_(token_weights[:, part].unsqueeze(1))
            if probabilities is not None and whole:
                # All tokens are at hand: the center without the rounding of a half-precision output.
                center = (slope * weights).sum(dim=-1) - grad_lse
            slope = slope.sub_(center.unsqueeze(-1))
        slope = slope.mul_(weights).to(queries.dtype)  # ds
        if grad_queries is not None:
            if grad_queries.dtype == slope.dtype:
                grad_queries.baddbmm_(slope, keys[:, part])
            else:
                grad_queries += torch.bmm(slope, keys[:, part])
        if grad_keys is not None:
            grad_keys[:, part] = torch.bmm(slope.transpose(1, 2), queries)
    return None if grad_queries is None else grad_queries.to(queries.dtype), grad_keys, grad_values
