"""Run a model in evaluation mode, and put every part of it back into its own mode afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["evaluating"]


@contextmanager
def evaluating(model: object) -> Iterator[None]:
    """Switch dropout and batch statistics off within the block. A plain function has no mode and stays as it is.

    Example:
        >>> layer = nn.Dropout()
        >>> with evaluating(layer):
        ...     layer.training
        False
        >>> layer.training
        True
    """
    training = (
        [module for module in model.modules() if module.training] if isinstance(model, nn.Module) else []
    )
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True
