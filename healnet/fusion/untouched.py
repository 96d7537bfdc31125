"""Give parameters that a batch does not use a gradient of exactly zero, so that every process has the same to average."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

__all__ = ["touch"]


def touch(latents: Tensor, modules: Iterable[nn.Module]) -> Tensor:
    """The latents, bit for bit, joined in the graph to all parameters of the modules.

    DistributedDataParallel waits for the gradient of every parameter, and FSDP reduces those of a whole layer, whatever the
    batch of one process lacks. A parameter of a modality that no patient of the batch has then gets zeros, not None; an
    optimizer treats it the same in one process with the whole batch and in many with a part each.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> touch(torch.ones(1, requires_grad=True), [layer]).backward()
        >>> layer.weight.grad
        tensor([[0., 0.]])
    """
    zero: Tensor | None = None
    for module in modules:
        for parameter in module.parameters():
            if parameter.requires_grad:
                # The sum of no elements: zero even where a parameter is not finite.
                nothing = parameter.flatten()[:0].sum().to(latents.device, latents.dtype)
                zero = nothing if zero is None else zero + nothing
    if zero is None or not torch.is_grad_enabled():
        return latents
    return latents - zero  # not +, which would turn -0.0 into 0.0
