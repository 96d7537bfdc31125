"""Wrap the PyTorch calls that have no public name, in one file, because a new release may change them."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["flash_attention_cpu", "function_transforms_active", "fused_attention"]

_forward = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
_backward = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu_backward", None)


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
    if _forward is None or queries.device.type != "cpu" or keys.shape[-1] != values.shape[-1]:
        return None
    if 0 in (queries.numel(), keys.numel()):
        return None
    bias = None
    if mask is not None:
        bias = torch.zeros(mask.shape, dtype=queries.dtype).masked_fill_(~mask, -math.inf)[:, None, None]
    heads = (_rows(x).unsqueeze(1) for x in (queries, keys, values))  # (B, 1, r or n, c)
    output, lse = _forward(*heads, 0.0, False, attn_mask=bias, scale=1.0)
    batch, rows, _ = queries.shape
    return output.reshape(batch, rows, -1), lse.reshape(batch, rows)


def fused_attention(queries: Tensor, keys: Tensor, values: Tensor, dropout: float = 0.0) -> Tensor:
    """`scaled_dot_product_attention` with a scale of 1, which can be differentiated twice on CPUs, too.

    Shape:
        queries: (b, h, m, e); keys and values: (b, h, n, e); returns (b, h, m, e)
    """
    plain = dropout > 0 or torch.compiler.is_compiling() or function_transforms_active()
    known = _forward is not None and _backward is not None
    if plain or not known or queries.device.type != "cpu" or 0 in (queries.numel(), keys.numel()):
        return F.scaled_dot_product_attention(queries, keys, values, dropout_p=dropout, scale=1.0)
    output: Tensor = _FusedOnCpu.apply(_rows(queries), _rows(keys), _rows(values))  # type: ignore[no-untyped-call]
    return output


class _FusedOnCpu(torch.autograd.Function):
    """The kernels that torch itself takes, whose backward has no derivative."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        assert _forward is not None
        output, lse = _forward(queries, keys, values, 0.0, False, scale=1.0)
        ctx.save_for_backward(queries, keys, values, output, lse)
        result: Tensor = output
        return result

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, ...]:
        queries, keys, values, output, lse = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: the derivative itself must have a graph
            inputs = [x.view_as(x) for x in (queries, keys, values)]  # they may be one tensor
            weights = (inputs[0] @ inputs[1].transpose(-1, -2)).softmax(dim=-1)
            return torch.autograd.grad(weights @ inputs[2], inputs, slopes[0], create_graph=True)
        assert _backward is not None
        slope = _rows(slopes[0])
        gradients: tuple[Tensor, ...] = _backward(
            slope, queries, keys, values, output, lse, 0.0, False, scale=1.0
        )
        return gradients


def _rows(tensor: Tensor) -> Tensor:
    """The kernels read rows of the last axis as if they were contiguous; `scaled_dot_product_attention` checks that."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
