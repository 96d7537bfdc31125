"""Encoder around any network that makes tokens: `LearnedEncoder`."""

from __future__ import annotations

from collections.abc import Callable

from einops import EinopsError
from torch import Tensor, nn

from healnet.encoders.base import ModalityEncoder
from healnet.inputs import Masked, broadcast_mask, unmask
from healnet.tokens import Tokens

__all__ = ["LearnedEncoder"]

# What PyTorch and einops raise for a wrong shape or type; subclasses of RuntimeError are about the machine, such as memory.
_REFUSALS = (RuntimeError, EinopsError, KeyError, IndexError, TypeError, ValueError, AssertionError)


class LearnedEncoder(ModalityEncoder):
    """A network that maps raw input (b, ...) to tokens (b, n, c), trained with the model.

    What is masked is set to zero before the network sees it. The network itself must treat each patient alone: batch
    normalization in training mode does not.

    Args:
        module: Network from a (b, ...) tensor to (b, n, token_dim).
        token_dim: Width c of what it makes.
        mask: Function from a mask of elements (b, *axes) to that of the tokens (b, n), for a network whose tokens do not
            change when masked elements do, nor when there are more of them. Without it, masks are of whole patients. For a
            network of each element by itself it is `torch.Tensor.clone`; for patches, a max-pooling of the mask.
        channels_first: Masks of elements are over (b, *axes) of values (b, channels, *axes).

    Shape:
        inputs: (b, ...), or Masked with a mask of (b,), or of (b, *axes) with `mask`
        returns: (b, n, token_dim)

    Raises:
        ValueError: An input that the module cannot take; a module that returns another shape; a mask that fits neither the
            patients nor, with `mask`, the elements or the tokens.

    Example:
        >>> import torch
        >>> from einops.layers.torch import Rearrange
        >>> cnn = nn.Sequential(nn.Conv2d(3, 16, 8, stride=8), nn.SELU(), Rearrange("b c h w -> b (h w) c"))
        >>> LearnedEncoder(cnn, token_dim=16)(torch.zeros(2, 3, 64, 64)).values.shape
        torch.Size([2, 64, 16])
        >>> def blocks(mask):  # a block is real if any of its pixels is
        ...     return nn.functional.max_pool2d(mask.float(), 8).flatten(1) > 0
        >>> ragged = LearnedEncoder(cnn, token_dim=16, mask=blocks, channels_first=True)
        >>> real = torch.arange(64).expand(2, 64, 64) < torch.tensor([64, 40]).view(2, 1, 1)  # the second is narrower
        >>> ragged(Masked(torch.zeros(2, 3, 64, 64), real)).mask.sum(dim=1)
        tensor([64, 40])
    """

    def __init__(
        self,
        module: nn.Module,
        token_dim: int,
        mask: Callable[[Tensor], Tensor] | None = None,
        channels_first: bool = False,
    ) -> None:
        super().__init__()
        if token_dim < 1:
            raise ValueError(f"expected token_dim to be positive, got {token_dim}")
        self.module = module
        self.token_dim = token_dim
        self.mask = mask
        self.channels_first = channels_first

    def forward(self, inputs: Tensor | Masked) -> Tokens:
        """Run the network on a batch."""
        values, mask = unmask(inputs)
        if mask is not None:
            values = values.masked_fill(~self._over(mask, values), 0)
        try:
            tokens = self.module(values)
        except _REFUSALS as error:
            if isinstance(error, RuntimeError) and type(error) not in (RuntimeError, EinopsError):
                raise
            raise ValueError(
                f"the module cannot take {values.dtype} of shape {tuple(values.shape)}: {error}"
            ) from error
        if not isinstance(tokens, Tensor) or tokens.dim() != 3 or tokens.shape[2] != self.token_dim:
            shape = tuple(tokens.shape) if isinstance(tokens, Tensor) else type(tokens).__name__
            raise ValueError(
                f"expected the module to return a shape of (b, n, {self.token_dim}), got {shape}"
            )
        if mask is None:
            return Tokens(tokens)
        if mask.dim() == 1:
            return Tokens(tokens, broadcast_mask(mask, tokens.shape[:2]))
        assert self.mask is not None
        token_mask = self.mask(mask)
        if token_mask.shape != tokens.shape[:2]:
            raise ValueError(
                f"expected mask() to make a mask of the tokens {tuple(tokens.shape[:2])} of one of shape "
                f"{tuple(mask.shape)}, got {tuple(token_mask.shape)}"
            )
        return Tokens(tokens, token_mask)

    def _over(self, mask: Tensor, values: Tensor) -> Tensor:
        """A mask of patients or elements, expanded to the values."""
        axes = values.shape[:1] + values.shape[2:] if self.channels_first else values.shape
        fits = mask.shape == axes[: mask.dim()] and (mask.dim() == 1 or self.mask is not None)
        if not fits or (self.channels_first and mask.dim() not in (1, len(axes))):
            wanted, hint = f"{tuple(values.shape[:1])}", ""
            if self.mask is not None:
                wanted += f" or {tuple(axes)}" + ("" if self.channels_first else " or its first axes")
            elif mask.dim() > 1:
                hint = (
                    "; a mask of elements needs LearnedEncoder(..., mask=function), which makes one of tokens"
                )
            raise ValueError(f"expected a mask of shape {wanted}, got {tuple(mask.shape)}{hint}")
        if self.channels_first and mask.dim() > 1:
            mask = mask.unsqueeze(1).expand_as(values)
        return broadcast_mask(mask, values.shape)
