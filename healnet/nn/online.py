"""Exact softmax attention in O(chunk) memory.

`online_attention` never builds more than a chunk of the score matrix, forward or backward, and skips the gradient of keys
and values that are data. Its result comes with the log-sum-exp of each query's scores, which is all that is needed to
merge attention over parts of the tokens: see `healnet.nn.softmax`.

Sources: online softmax, Milakov and Gimelshein 2018 (arXiv 1805.02867); backward by recomputation, Rabe and Staats 2021
(arXiv 2112.05682) and Dao et al. 2022 (arXiv 2205.14135).
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from healnet.nn.softmax import SoftmaxState

__all__ = ["attention_weights", "online_attention"]

# Scores held at once: 1 MiB in float32, so that a chunk lives in the second-level cache. Measured over 150,528 tokens and
# 1,024 queries, backward, seconds of one core: 0.60 at 2^17, 0.68 at 2^18, 0.77 at 2^19, 0.98 at 2^20, 1.38 at 2^21.
CHUNK_ELEMENTS = 2**18
# GPUs want fewer, larger launches; 64 MiB in float32.
CHUNK_ELEMENTS_GPU = 2**24
# Up to this many scores the probabilities are simply kept for the backward pass: 16 MiB in float32.
KEEP_ELEMENTS = 2**22


def online_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None = None,
    token_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Softmax attention `softmax(q k^T) v` over (batches of) tokens, exact, in O(chunk) memory.

    No scale is applied: fold it into the queries. Statistics, softmax and sums are in float32 for half-precision inputs.

    Args:
        queries: the queries, one row per query.
        keys: the keys; the very same tensor may be passed as `values`.
        values: the values.
        mask: True = real. A row without a real token gives zeros, a log-sum-exp of -inf, and zero gradients. What is masked
            must be finite all the same.
        token_weights: multiplies each token's probability after the softmax (whole-token dropout); gets no gradient.

    Shape:
        queries: (B, r, c); keys: (B, n, c); values: (B, n, v); mask, token_weights: (B, n)

    Returns:
        output (B, r, v), mass (B, r) = the sum of the probabilities after `token_weights` (one without them), and lse
        (B, r). All three are differentiable, twice if need be (the second derivative builds the full score matrix).
    """
    compiling = torch.compiler.is_compiling()
    if compiling or torch._C._are_functorch_transforms_active():  # vmap, torch.func.grad, ...
        output, mass, lse = _plain(queries, keys, values, mask, token_weights)
        if compiling and token_weights is None:
            # A compiler drops what `_plain` did for an output nobody reads.
            output = _fused(queries, keys, values, mask)
        return output, mass, lse
    output, mass, lse = _OnlineAttention.apply(  # type: ignore[no-untyped-call]
        queries, keys, values, mask, token_weights
    )
    return output, mass, lse


def _no_autocast(device: str) -> AbstractContextManager[Any]:
    """Types stay as they are; some devices (meta) know no autocast at all."""
    known = torch.amp.is_autocast_available(device)
    return torch.autocast(device, enabled=False) if known else nullcontext()


def _accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _scores(queries: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
    scores = torch.bmm(queries, keys.transpose(1, 2)).to(_accumulation_dtype(queries.dtype))
    return scores if mask is None else scores.masked_fill(~mask.unsqueeze(1), -math.inf)


def _plain(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, token_weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The same in one piece, from differentiable operations: what a compiler fuses, and what is derived twice."""
    scores = _scores(queries, keys, mask)
    if mask is None:
        seen = scores.new_ones(scores.shape[:2], dtype=torch.bool) & (keys.shape[1] > 0)
    else:
        seen = mask.any(dim=1, keepdim=True).expand(scores.shape[:2])
    # logsumexp of a row of -inf has a NaN gradient: such rows are computed on zeros and overwritten.
    scores = scores.masked_fill(~seen.unsqueeze(-1), 0)
    lse = scores.logsumexp(dim=-1)
    weights = (scores - lse.unsqueeze(-1)).exp().masked_fill(~seen.unsqueeze(-1), 0)
    if token_weights is not None:
        weights = weights * token_weights.unsqueeze(1)
    mass = weights.sum(dim=-1) if token_weights is not None else seen.to(weights.dtype)
    output = torch.bmm(weights.to(values.dtype), values)
    return output, mass, lse.masked_fill(~seen, -math.inf)


def _fused(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """The output alone, by torch's own differentiable attention."""
    bias = None
    if mask is not None:
        seen = mask.any(dim=1, keepdim=True)
        bias = (mask | ~seen)[:, None, None].expand(-1, 1, queries.shape[1], -1)
    output = F.scaled_dot_product_attention(
        queries.unsqueeze(1), keys.unsqueeze(1), values.unsqueeze(1), attn_mask=bias, scale=1.0
    ).squeeze(1)
    return output if mask is None else output.masked_fill(~seen.unsqueeze(-1), 0)


class _OnlineAttention(torch.autograd.Function):
    """The chunked forward and backward of `online_attention`."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor | None,
        token_weights: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        with _no_autocast(queries.device.type):
            output, mass, lse, kept = _forward(queries, keys, values, mask, token_weights)
        ctx.save_for_backward(queries, keys, values, mask, token_weights, output, mass, lse, kept)
        return output, mass, lse

    @staticmethod
    def backward(
        ctx: Any, grad_output: Tensor, grad_mass: Tensor, grad_lse: Tensor
    ) -> tuple[Tensor | None, ...]:
        queries, keys, values, mask, token_weights, output, mass, lse, kept = ctx.saved_tensors
        needs = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():  # create_graph=True: the derivative itself must have a graph
            # Keys and values may be one tensor, each with its own share of the gradient.
            queries, keys, values = (x.view_as(x) for x in (queries, keys, values))
            inputs = [x for x, need in zip((queries, keys, values), needs, strict=True) if need]
            # A row that saw nothing has lse = -inf; its gradient is not asked for.
            slopes = (grad_output, grad_mass, grad_lse.masked_fill(torch.isneginf(lse), 0))
            pairs = [
                (result, slope)
                for result, slope in zip(
                    _plain(queries, keys, values, mask, token_weights), slopes, strict=True
                )
                if result.requires_grad  # the mass is a constant without token weights
            ]
            grads = iter(
                torch.autograd.grad(
                    [result for result, _ in pairs],
                    inputs,
                    [slope for _, slope in pairs],
                    create_graph=True,
                    allow_unused=True,
                )
            )
            return (*(next(grads) if need else None for need in needs), None, None)
        with _no_autocast(queries.device.type):
            saved = (queries, keys, values, mask, token_weights, output, mass, lse, kept)
            grads3 = _backward(needs, *saved, grad_output, grad_mass, grad_lse)
        return (*grads3, None, None)


def _chunk_length(queries: Tensor) -> int:
    budget = CHUNK_ELEMENTS if queries.device.type == "cpu" else CHUNK_ELEMENTS_GPU
    return max(64, budget // max(1, queries.shape[1]))


def _flash_cpu(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor] | None:
    """Torch's fused CPU kernel with the log-sum-exp that its public door drops; None where it does not apply."""
    op = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
    if op is None or queries.device.type != "cpu" or keys.shape[-1] != values.shape[-1]:
        return None
    if 0 in (queries.numel(), keys.numel()):
        return None
    bias = None
    if mask is not None:
        bias = torch.zeros(mask.shape, dtype=queries.dtype).masked_fill_(~mask, -math.inf)[:, None, None]
    output, lse = op(
        queries.unsqueeze(1), keys.unsqueeze(1), values.unsqueeze(1), 0.0, False, attn_mask=bias, scale=1.0
    )
    batch, rows, _ = queries.shape
    return output.reshape(batch, rows, -1), lse.reshape(batch, rows)


def _forward(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, token_weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    batch, rows, _ = queries.shape
    n = keys.shape[1]
    dtype = _accumulation_dtype(queries.dtype)
    kept = None
    ones = torch.ones(batch, rows, dtype=dtype, device=queries.device)
    if 0 < batch * rows * n <= KEEP_ELEMENTS:
        scores = _scores(queries, keys, mask)
        lse = scores.logsumexp(dim=-1)
        kept = scores.sub_(_finite(lse).unsqueeze(-1)).exp_()
        weights = kept if token_weights is None else kept * token_weights.unsqueeze(1)
        mass = ones if token_weights is None else weights.sum(dim=-1)
        output = torch.bmm(weights.to(values.dtype), values)
    else:
        fused = None if token_weights is not None else _flash_cpu(queries, keys, values, mask)
        if fused is not None:
            (output, lse), mass = fused, ones
        else:
            output, mass, lse = _chunked_forward(queries, keys, values, mask, token_weights)
    if mask is not None or n == 0:
        seen = torch.zeros_like(lse, dtype=torch.bool) if mask is None else mask.any(dim=1, keepdim=True)
        output = output.masked_fill(~seen.expand_as(lse).unsqueeze(-1), 0)
        mass = mass.masked_fill(~seen, 0)
        lse = lse.to(dtype).masked_fill(~seen, -math.inf)
    return output, mass, lse.to(dtype), kept


def _finite(lse: Tensor) -> Tensor:
    """The log-sum-exp with 0 for rows that saw nothing: exp(-inf - 0) is the zero that is wanted."""
    return lse.masked_fill(torch.isneginf(lse), 0)


def _chunked_forward(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, token_weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    batch, rows, _ = queries.shape
    dtype = _accumulation_dtype(queries.dtype)
    zeros = torch.zeros(batch, rows, dtype=dtype, device=queries.device)
    state = SoftmaxState(zeros - math.inf, zeros, zeros.unsqueeze(-1).repeat(1, 1, values.shape[-1] + 1))
    step = _chunk_length(queries)
    for start in range(0, keys.shape[1], step):
        part = slice(start, start + step)
        scores = _scores(queries, keys[:, part], None if mask is None else mask[:, part])
        top = scores.amax(dim=-1)
        weights = scores.sub_(_finite(top).unsqueeze(-1)).exp_()
        total = weights.sum(dim=-1)
        if token_weights is not None:
            weights.mul_(token_weights[:, part].unsqueeze(1))
        mass = total if token_weights is None else weights.sum(dim=-1)
        weighted = torch.bmm(weights.to(values.dtype), values[:, part]).to(dtype)
        state = state.merge(SoftmaxState(top, total, torch.cat((weighted, mass.unsqueeze(-1)), dim=-1)))
    output = state.output()
    return output[..., :-1].to(values.dtype), output[..., -1], state.lse()


def _backward(
    needs: tuple[bool, bool, bool],
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    token_weights: Tensor | None,
    output: Tensor,
    mass: Tensor,
    lse: Tensor,
    kept: Tensor | None,
    grad_output: Tensor,
    grad_mass: Tensor,
    grad_lse: Tensor,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """With p the softmax and w the token weights: ds = p (w (dO v + dmass) - D), D = dO o + dmass mass - dlse."""
    dtype = _accumulation_dtype(queries.dtype)
    seen = ~torch.isneginf(lse)
    grad_output = grad_output.masked_fill(~seen.unsqueeze(-1), 0)
    centre = (grad_output.to(dtype) * output.to(dtype)).sum(dim=-1) - grad_lse.masked_fill(~seen, 0)
    if token_weights is not None:
        centre = centre + grad_mass * mass
    low = grad_output.to(values.dtype)
    grad_queries = torch.zeros(queries.shape, dtype=dtype, device=queries.device) if needs[0] else None
    grad_keys = torch.empty_like(keys) if needs[1] else None
    grad_values = torch.empty_like(values) if needs[2] else None
    finite = _finite(lse).unsqueeze(-1)
    n = keys.shape[1]
    step = n if kept is not None else _chunk_length(queries)
    for start in range(0, n, max(1, step)):
        part = slice(start, start + step)
        if kept is not None:
            weights = kept
        else:
            weights = _shifted_product(queries, keys[:, part], finite, dtype).exp_()
            if mask is not None:
                weights = weights.masked_fill_(~mask[:, part].unsqueeze(1), 0)
        dropped = weights if token_weights is None else weights * token_weights[:, part].unsqueeze(1)
        if grad_values is not None:
            grad_values[:, part] = torch.bmm(dropped.to(low.dtype).transpose(1, 2), low)
        if grad_queries is None and grad_keys is None:
            continue
        if token_weights is None and kept is None:
            slope = _shifted_product(low, values[:, part], centre.unsqueeze(-1), dtype)
        else:
            slope = torch.bmm(low, values[:, part].transpose(1, 2)).to(dtype)
            if token_weights is not None:
                slope = (slope + grad_mass.unsqueeze(-1)).mul_(token_weights[:, part].unsqueeze(1))
            if (
                kept is not None
            ):  # all tokens at hand: the centre without the rounding of a half-precision output
                centre = (slope * weights).sum(dim=-1) - grad_lse.masked_fill(~seen, 0)
            slope = slope.sub_(centre.unsqueeze(-1))
        slope = slope.mul_(weights).to(queries.dtype)
        if grad_queries is not None:
            if grad_queries.dtype == slope.dtype:
                grad_queries.baddbmm_(slope, keys[:, part])
            else:
                grad_queries += torch.bmm(slope, keys[:, part])
        if grad_keys is not None:
            grad_keys[:, part] = torch.bmm(slope.transpose(1, 2), queries)
    return None if grad_queries is None else grad_queries.to(queries.dtype), grad_keys, grad_values


def _shifted_product(left: Tensor, right: Tensor, shift: Tensor, dtype: torch.dtype) -> Tensor:
    """`left @ right^T - shift`, the shift per row (B, r, 1) riding on the product where the types allow it."""
    transposed = right.transpose(1, 2)
    if left.dtype == dtype:
        return torch.baddbmm(-shift.expand(-1, -1, right.shape[1]), left, transposed)
    return torch.bmm(left, transposed).to(dtype).sub_(shift)


def attention_weights(
    queries: Tensor,
    keys: Tensor,
    lse: Tensor,
    groups: int = 1,
    mask: Tensor | None = None,
    keep_groups: bool = False,
    keep_rows: bool = False,
    slopes: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Softmax weights of each token, averaged as they are made: O(n) memory whatever the number of queries.

    Args:
        queries: the queries, `groups` (heads) times as many rows as latents, heads first.
        keys: the keys.
        lse: log-sum-exp of each query, as `online_attention` returns it.
        groups: the number of heads among the rows.
        mask: True = real.
        keep_groups: keep the heads apart.
        keep_rows: keep the latents apart.
        slopes: (gradient of the output, values): each weight is multiplied by its own gradient before averaging.

    Shape:
        queries: (B, groups * m, c); keys: (B, n, c); lse: (B, groups * m)
        returns: (B, n), (B, groups, n), (B, m, n) or (B, groups, m, n)
    """
    batch, rows, _ = queries.shape
    n, m = keys.shape[1], rows // groups
    dtype = _accumulation_dtype(queries.dtype)
    shape = (batch, *([groups] if keep_groups else []), *([m] if keep_rows else []), n)
    result = torch.zeros(shape, dtype=dtype, device=queries.device)
    seen = ~torch.isneginf(lse)
    finite = _finite(lse).unsqueeze(-1)
    axes = [axis for axis, keep in ((1, keep_groups), (2, keep_rows)) if not keep]
    step = _chunk_length(queries)
    with _no_autocast(queries.device.type):
        for start in range(0, n, step):
            part = slice(start, start + step)
            if axes == [1, 2] and slopes is None and queries.dtype == dtype:
                result[:, part] = _column_means(queries, keys[:, part], finite, n)
                continue
            weights = _shifted_product(queries, keys[:, part], finite, dtype).exp_()
            if slopes is not None:
                grad_output, values = slopes
                weights *= torch.bmm(grad_output, values[:, part].transpose(1, 2))
            weights = weights.unflatten(1, (groups, m))
            result[..., part] = weights.mean(dim=axes) if axes else weights
    if mask is not None:
        real = mask & seen.any(dim=1, keepdim=True)
        result = result.masked_fill(~real.reshape(batch, *[1] * (result.dim() - 2), n), 0)
    if slopes is None and queries.dtype != dtype:
        # A fused kernel's log-sum-exp is of scores that were not rounded to half precision; these were.
        total = result.sum(dim=-1, keepdim=True)
        result = result / torch.where(total > 0, total, torch.ones_like(total))
    return result


def _column_means(queries: Tensor, keys: Tensor, lse: Tensor, n: int) -> Tensor:
    """The mean over queries of exp(q k - lse), through torch's softmax, whose exponential is 1.5x as fast as exp.

    Beside the r scores of a token stands a constant, log(r / n): the token's mean weight 1 / n is then half of the softmax,
    where the quotient below loses no digits. Both the log-sum-exp and the constant ride on the product as a further channel.
    """
    batch, rows, width = queries.shape
    constant = queries.new_zeros(batch, 1, width + 1)
    constant[..., -1] = math.log(rows / n)
    queries = torch.cat((torch.cat((queries, -lse), dim=-1), constant), dim=1)
    scores = torch.bmm(F.pad(keys, (0, 1), value=1.0), queries.transpose(1, 2))
    share = scores.softmax(dim=-1)[..., -1]
    return (1 / share - 1) / n
