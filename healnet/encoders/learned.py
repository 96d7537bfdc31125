"""Any network that makes tokens, as an encoder."""

from __future__ import annotations

from torch import Tensor, nn

from healnet.encoders.base import ModalityEncoder
from healnet.inputs import Masked, broadcast_mask, unmask
from healnet.tokens import Tokens

__all__ = ["LearnedEncoder"]


class LearnedEncoder(ModalityEncoder):
    """A network that maps raw input (b, ...) to tokens (b, n, c), trained with the model.

    What is masked is set to zero before the network sees it. The network itself must treat each patient alone: batch
    normalisation in training mode does not.

    Args:
        module: any module from a (b, ...) tensor to (b, n, token_dim).
        token_dim: the width c of what it makes.

    Shape:
        inputs: (b, ...), or Masked with a mask of (b,), or of (b, n) for a network that makes a token of each of n elements
        returns: (b, n, token_dim)

    Raises:
        ValueError: an input that the module cannot take; a module that returns another shape; a mask that fits neither the
            patients nor the tokens.

    Example:
        >>> import torch
        >>> from einops.layers.torch import Rearrange
        >>> cnn = nn.Sequential(nn.Conv2d(3, 16, 8, stride=8), nn.SELU(), Rearrange("b c h w -> b (h w) c"))
        >>> LearnedEncoder(cnn, token_dim=16)(torch.zeros(2, 3, 64, 64)).values.shape
        torch.Size([2, 64, 16])
    """

    def __init__(self, module: nn.Module, token_dim: int) -> None:
        super().__init__()
        if token_dim < 1:
            raise ValueError(f"expected token_dim to be positive, got {token_dim}")
        self.module = module
        self.token_dim = token_dim

    def forward(self, inputs: Tensor | Masked) -> Tokens:
        """Run the network on a batch."""
        values, mask = unmask(inputs)
        if mask is not None:
            if mask.shape != values.shape[: mask.dim()] or mask.dim() > 2:
                raise ValueError(
                    f"expected a mask of shape {tuple(values.shape[:1])} or {tuple(values.shape[:2])}, "
                    f"got {tuple(mask.shape)}"
                )
            values = values.masked_fill(~broadcast_mask(mask, values.shape), 0)
        try:
            tokens = self.module(values)
        except RuntimeError as error:
            # PyTorch's word for a wrong shape or type; its subclasses are about the machine, such as memory.
            if type(error) is not RuntimeError:
                raise
            raise ValueError(
                f"the module cannot take {values.dtype} of shape {tuple(values.shape)}: {error}"
            ) from error
        if not isinstance(tokens, Tensor) or tokens.dim() != 3 or tokens.shape[2] != self.token_dim:
            shape = tuple(tokens.shape) if isinstance(tokens, Tensor) else type(tokens).__name__
            raise ValueError(
                f"expected the module to return a shape of (b, n, {self.token_dim}), got {shape}"
            )
        if mask is not None and mask.dim() == 1:
            mask = mask.unsqueeze(1).expand(tokens.shape[:2])
        if mask is not None and mask.shape != tokens.shape[:2]:
            raise ValueError(
                f"expected a mask of shape {tuple(tokens.shape[:1])} for a module that makes {tokens.shape[1]} tokens "
                f"of {values.shape[1]} elements, got {tuple(mask.shape)}"
            )
        return Tokens(tokens, mask)
