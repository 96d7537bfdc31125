"""Recompute the weights of a finished attention, averaged while they are computed, for a trace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from healnet.nn.chunked_attention import accumulation_dtype, chunk_length, exponentials, no_autocast
from healnet.nn.softmax import finite_lse

__all__ = ["Attended", "ContractionOrder", "Keep", "attention_weights"]

ContractionOrder = Literal["token", "projected"]
Keep = Literal["none", "heads", "latents", "both"]


@dataclass(frozen=True)
class Attended:
    """One finished attention: enough to make its weights again, without ever having stored them.

    Where the heads are depends on the order of contraction. In token space all heads of a patient read the same tokens, so
    heads are among the *rows*: B is b, r is h * m. Projected, each head has keys of its own, so heads are in the *batch*: B
    is b * h, r is m.

    Shape:
        queries: (B, r, c); keys: (B, n, c); values: (B, n, v); output: (B, r, v); lse: (B, r); mask, token_weights: (B, n)

    Attributes:
        whole: Whether the keys are all tokens that were attended to, and not one piece or one process's part of them.
    """

    order: ContractionOrder
    num_heads: int
    queries: Tensor
    keys: Tensor
    values: Tensor
    output: Tensor
    lse: Tensor
    mask: Tensor | None
    token_weights: Tensor | None
    whole: bool = True

    @torch.no_grad()
    def weights(self, keep: Keep = "none", grad_output: Tensor | None = None) -> Tensor:
        """Attention weights averaged over heads and latents unless kept; before dropout.

        Args:
            keep: Axes that are kept apart: "none", "heads", "latents" or "both".
            grad_output: Gradient of some quantity with respect to `output`; every weight is then multiplied by its own
                gradient before the mean: the first-order effect of the weight on that quantity.

        Shape:
            returns: (b, n), (b, h, n), (b, m, n) or (b, h, m, n)
        """
        heads, latents = keep in ("heads", "both"), keep in ("latents", "both")
        slopes = None
        if grad_output is not None:
            values = self.values
            if self.token_weights is not None:
                values = values * self.token_weights.unsqueeze(-1)
            slopes = (grad_output, values)
        if self.order == "token":  # heads in rows: (b, [h], [m], n) as wanted
            return attention_weights(
                self.queries,
                self.keys,
                self.lse,
                groups=self.num_heads,
                mask=self.mask,
                keep_groups=heads,
                keep_rows=latents,
                slopes=slopes,
                whole=self.whole,
            )
        weights = attention_weights(
            self.queries,
            self.keys,
            self.lse,
            mask=self.mask,
            keep_rows=latents,
            slopes=slopes,
            whole=self.whole,
        )
        weights = weights.unflatten(0, (len(weights) // self.num_heads, self.num_heads))  # (b, h, [m], n)
        return weights if heads else weights.mean(dim=1)


def attention_weights(
    queries: Tensor,
    keys: Tensor,
    lse: Tensor,
    groups: int = 1,
    mask: Tensor | None = None,
    keep_groups: bool = False,
    keep_rows: bool = False,
    slopes: tuple[Tensor, Tensor] | None = None,
    whole: bool = True,
) -> Tensor:
    """Softmax weights of each token, averaged as they are made: O(n) memory whatever the number of queries.

    Args:
        queries: Queries, `groups` (heads) times as many rows as latents, heads first.
        keys: Keys.
        lse: Log-sum-exp of each query, as `chunked_attention` returns it.
        groups: Number of heads among the rows.
        mask: True = real.
        keep_groups: Keep the heads apart.
        keep_rows: Keep the latents apart.
        slopes: Gradient of the output, and the values: each weight is multiplied by its own gradient before averaging.
        whole: Whether the keys are all tokens that `lse` is of.

    Shape:
        queries: (B, groups * m, c); keys: (B, n, c); lse: (B, groups * m)
        returns: (B, n), (B, groups, n), (B, m, n) or (B, groups, m, n)
    """
    batch, rows, _ = queries.shape
    n, m = keys.shape[1], rows // groups
    dtype = accumulation_dtype(queries.dtype)
    shape = (batch, *([groups] if keep_groups else []), *([m] if keep_rows else []), n)
    result = torch.zeros(shape, dtype=dtype, device=queries.device)
    seen = ~torch.isneginf(lse)  # (B, r)
    shift = finite_lse(lse).unsqueeze(-1)
    averaged = [axis for axis, keep in ((1, keep_groups), (2, keep_rows)) if not keep]
    step = chunk_length(queries)
    with no_autocast(queries.device.type):
        for start in range(0, n, step):
            part = slice(start, start + step)
            weights = exponentials(queries, keys[:, part], shift, dtype)  # (B, r, step)
            if slopes is not None:
                grad_output, values = slopes
                weights *= torch.bmm(grad_output, values[:, part].transpose(1, 2))
            weights = weights.unflatten(1, (groups, m))  # (B, groups, m, step)
            result[..., part] = weights.mean(dim=averaged) if averaged else weights
    if mask is not None:
        real = mask & seen.any(dim=1, keepdim=True)  # (B, n)
        result = result.masked_fill(~real.reshape(batch, *[1] * (result.dim() - 2), n), 0)
    if slopes is None and whole and queries.dtype != dtype:
        # A fused kernel's log-sum-exp is of scores that were not rounded to half precision; these were.
        total = result.sum(dim=-1, keepdim=True)
        result = result / torch.where(total > 0, total, torch.ones_like(total))
    return result
