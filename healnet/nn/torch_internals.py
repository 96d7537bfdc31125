"""Wrap the PyTorch calls that have no public name, in one file, because a new release may change them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["flash_attention_cpu", "function_transforms_active"]


def function_transforms_active() -> bool:
    """True if `torch.vmap`, `torch.func.grad` or another function transform is running: values are then not to be read."""
    return torch._C._are_functorch_transforms_active()


def flash_attention_cpu(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor] | None:
    """Torch's fused attention for CPUs, with the log-sum-exp that `scaled_dot_product_attention` does not return.

    Shape:
        queries: (B, r, c); keys and values: (B, n, c); mask: (B, n), True = real; returns output (B, r, c) and lse
        (B, r), or None where the kernel does not apply: other devices, keys and values of different widths, nothing to
        attend to.
    """
    kernel = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
    if kernel is None or queries.device.type != "cpu" or keys.shape[-1] != values.shape[-1]:
        return None
    if 0 in (queries.numel(), keys.numel()):
        return None
    bias = None
    if mask is not None:
        bias = torch.zeros(mask.shape, dtype=queries.dtype).masked_fill_(~mask, -math.inf)[:, None, None]
    heads = (x.unsqueeze(1) for x in (queries, keys, values))  # (B, 1, r or n, c)
    output, lse = kernel(*heads, 0.0, False, attn_mask=bias, scale=1.0)
    batch, rows, _ = queries.shape
    return output.reshape(batch, rows, -1), lse.reshape(batch, rows)
