"""Tokens: what every encoder returns and every fusion layer reads.

Everywhere a mask is boolean and **True means real**: padding and absence are the same thing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from healnet.nn.token_shards import TokenShards
from healnet.nn.torch_internals import function_transforms_active

__all__ = ["LAYER_NORM_EPS", "Tokens"]

LAYER_NORM_EPS = 1e-5  # torch.nn.LayerNorm's default, which released checkpoints were trained with


class Tokens:
    """Raw tokens with their positions: every encoder returns them, every fusion layer reads them.

    Shape:
        values: (b, n, c) floating point; positions are already concatenated to the channels.
        mask: (b, n) bool, True = real, or None where every token of every patient is real.

    Args:
        values: Tokens.
        mask: Mask of the real ones.
        shards: Processes that have further tokens of the same patients; None where these are all.

    Raises:
        ValueError: Another number of axes, a mask of another shape or type.

    Example:
        >>> tokens = Tokens(torch.zeros(2, 5, 3), torch.tensor([[True] * 5, [False] * 5]))
        >>> tokens.present
        tensor([ True, False])
    """

    def __init__(self, values: Tensor, mask: Tensor | None = None, shards: TokenShards | None = None) -> None:
        if values.dim() != 3 or not values.is_floating_point():
            raise ValueError(
                f"expected floating-point values of shape (b, n, c), got {values.dtype} of shape {tuple(values.shape)}"
            )
        if mask is not None and (mask.dtype != torch.bool or mask.shape != values.shape[:2]):
            raise ValueError(
                f"expected a bool mask of shape {tuple(values.shape[:2])}, "
                f"got {mask.dtype} of shape {tuple(mask.shape)}"
            )
        if mask is None and values.shape[1] == 0:  # no patient has a token
            mask = torch.zeros(values.shape[:2], dtype=torch.bool, device=values.device)
        self.values = values
        self.mask = mask
        self.shards = shards
        self._present: Tensor | None = None
        self._standardized: dict[torch.dtype, Tensor] = {}

    def __repr__(self) -> str:
        mask = "None" if self.mask is None else f"{int(self.mask.sum())} of {self.mask.numel()} real"
        return f"Tokens(values={tuple(self.values.shape)} {self.values.dtype}, mask={mask})"

    @property
    def present(self) -> Tensor | None:
        """(b,) bool: which patients have at least one real token; None where all have."""
        if self.shards is None:
            return None if self.mask is None else self.mask.any(dim=1)
        if self._present is None:
            own = self.values.new_ones(len(self.values)) if self.mask is None else self.mask.any(dim=1)
            self._present = self.shards.maximum(own.to(torch.uint8)).bool()
        return self._present

    def standardized(self, dtype: torch.dtype | None = None) -> Tensor:
        """Each token's values less their mean, over their standard deviation: LayerNorm without its affine part.

        Computed once for each type and kept, because all heads of all layers attend to the same standardized tokens and only
        weight and bias differ (see `healnet.nn.attention`). Masked tokens are zero, whatever they held, NaN included.

        Args:
            dtype: Type of the result (default: that of the values); statistics are taken before anything is rounded to it.

        Returns:
            (b, n, c)
        """
        dtype = dtype or self.values.dtype
        if dtype not in self._standardized:
            values = self.values.to(torch.promote_types(self.values.dtype, dtype))
            if self.mask is not None and not _known_to_be_real(self.mask):
                # Before the statistics: the gradient of a normalized NaN is NaN even behind a mask.
                values = values.masked_fill(~self.mask.unsqueeze(-1), 0)
            normalized = F.layer_norm(values, values.shape[-1:], eps=LAYER_NORM_EPS)
            self._standardized[dtype] = normalized.to(dtype)
        return self._standardized[dtype]


def _known_to_be_real(mask: Tensor) -> bool:
    """All True, where finding out costs next to nothing: a bag of 100,000 patches is then not copied."""
    traced = torch.compiler.is_compiling() or function_transforms_active()
    return mask.device.type == "cpu" and not traced and bool(mask.all())
