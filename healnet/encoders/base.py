"""Base class for modality encoders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from healnet.streams import Block, Pieces
from healnet.tokens import Tokens

__all__ = ["ModalityEncoder"]


class ModalityEncoder(nn.Module, ABC):
    """Base class of encoders, which turn a raw modality into `Tokens`. Subclass it for a new modality.

    A subclass sets `token_dim` (the width c of its tokens, known before any data are seen) and implements `forward`.
    It raises a ValueError that says what came and what was expected; the model adds the modality's name. It keeps the
    laws that `healnet.testing.check_encoder` checks: patients do not mix, padding changes nothing, masked input gets no
    gradient, the input is not mutated. One that keeps each constructor argument as an attribute of the same name can be
    saved and rebuilt by `healnet.pretrained`.

    Attributes:
        token_dim: Width c of the tokens.
        splits: Whether `forward` takes a second argument `shards`, the processes that have the other parts of the same input
            (`healnet.nn.token_shards.TokenShards`): for positions that depend on the whole.

    Example:
        >>> import torch
        >>> from healnet.inputs import element_mask, unmask
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
    splits: bool = False

    @abstractmethod
    def forward(self, inputs: Any) -> Tokens:
        """Encode one batch of the modality, b patients first, as `Tokens` (b, n, token_dim)."""

    def encode_block(self, pieces: Pieces, block: Block, values: Tensor, mask: Tensor | None) -> Tokens:
        """Encode one block of one patient's data that are read in pieces; positions are those of the whole.

        An encoder whose tokens depend on their own element and its place alone can implement this, and then takes a
        `healnet.Stream`. The tokens of all blocks together must be those that `forward` gives for the whole.

        Args:
            pieces: Data of the patient; `pieces.sizes` is the extent of the whole, `pieces.coords` are all coordinates.
            block: Place of the block in the whole, one slice per axis.
            values: Numbers of the block (*axes, c), or (f,) for a table.
            mask: (*axes) bool, True = real, or None.

        Raises:
            ValueError: The encoder does not work block by block; what `forward` refuses.
        """
        raise ValueError(
            f"{type(self).__name__} reads its input at once; expected a tensor or a NamedTuple of tensors, got a Stream"
        )
