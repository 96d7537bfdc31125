"""The door for new modalities: an encoder turns one raw modality into `Tokens`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from healnet.tokens import Masked, Tokens

__all__ = ["ModalityEncoder", "element_mask", "unmask"]


class ModalityEncoder(nn.Module, ABC):
    """Raw modality in, `Tokens` out. Subclass it for a new modality.

    A subclass sets `token_dim` (the width c of its tokens, known before any data are seen) and implements `forward`.
    It raises a ValueError that says what came and what was expected; the model adds the modality's name. It keeps the
    laws that `healnet.testing.check_encoder` checks: patients do not mix, padding changes nothing, masked input gets no
    gradient, the input is not mutated.

    Example:
        >>> class Angles(ModalityEncoder):
        ...     token_dim = 2
        ...
        ...     def forward(self, inputs):
        ...         values, mask = unmask(inputs)
        ...         return Tokens(torch.stack((values.sin(), values.cos()), dim=-1), element_mask(mask, values.shape))
        >>> Angles()(torch.zeros(4, 3)).values.shape
        torch.Size([4, 3, 2])
    """

    token_dim: int

    @abstractmethod
    def forward(self, inputs: Any) -> Tokens:
        """Encode one batch of the modality; (b, ...) in, `Tokens` of (b, n, token_dim) out."""


def unmask(inputs: Tensor | Masked) -> tuple[Tensor, Tensor | None]:
    """The values and the mask of a plain tensor (no mask: all present) or of `Masked`.

    Raises:
        ValueError: anything else, or a mask that is not boolean.
    """
    if isinstance(inputs, Tensor):
        return inputs, None
    if isinstance(inputs, Masked):
        strangers = [type(part).__name__ for part in inputs if not isinstance(part, Tensor)]
        if strangers:
            raise ValueError(f"expected Masked to hold two tensors, got {strangers[0]}")
        if inputs.mask.dtype != torch.bool:
            raise ValueError(f"expected a bool mask (True = real), got {inputs.mask.dtype}")
        return inputs.values, inputs.mask
    raise ValueError(f"expected a tensor or Masked(values, mask), got {type(inputs).__name__}")


def element_mask(mask: Tensor | None, shape: torch.Size) -> Tensor | None:
    """A per-patient (b,) or per-element mask as one of exactly `shape`; None stays None.

    Raises:
        ValueError: a mask of any other shape.
    """
    if mask is None or mask.shape == shape:
        return mask
    if mask.shape == shape[:1]:
        return mask.reshape(-1, *[1] * (len(shape) - 1)).expand(shape)
    raise ValueError(
        f"expected a mask of shape {tuple(shape[:1])} or {tuple(shape)}, got {tuple(mask.shape)}"
    )
