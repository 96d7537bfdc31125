"""An encoder at work on tiles: its device and mode, its precision, and a check of what it returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["Encoder", "FeatureKind", "TileEncoder", "device_of"]

Encoder = Callable[[Tensor], Tensor]


class FeatureKind(NamedTuple):
    """Width and NumPy type of the features that an encoder makes."""

    dim: int
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class TileEncoder:
    """An encoder on its device, from a batch of tiles to rows of NumPy.

    Attributes:
        encoder: (b, 3, size, size) to (b, d).
        device: of the tiles.
        autocast: type for mixed precision, or None.
    """

    encoder: Encoder
    device: torch.device
    autocast: torch.dtype | None

    def __call__(self, tiles: Tensor) -> np.ndarray[Any, Any]:
        """(b, 3, size, size), uint8 (which becomes float from 0 to 1) or as the encoder takes it, to (b, d).

        Raises:
            ValueError: the encoder returns another shape, or numbers that are not floating point.
        """
        tiles = tiles.to(self.device, non_blocking=True)
        if tiles.dtype == torch.uint8:  # sent as bytes: a quarter of the traffic
            tiles = tiles.float() / 255
        with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            features = self.encoder(tiles)
        if not isinstance(features, Tensor) or features.dim() != 2 or len(features) != len(tiles):
            got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(
                f"expected an encoder that returns ({len(tiles)}, d) for {len(tiles)} tiles, got {got}"
            )
        if not features.is_floating_point():
            raise ValueError(f"expected floating-point features of the encoder, got {features.dtype}")
        features = (
            features.float() if features.dtype == torch.bfloat16 else features
        )  # NumPy and HDF5 have no bfloat16
        return features.cpu().numpy()

    def probe(self, size: int, transform: Callable[[Tensor], Tensor] | None) -> FeatureKind:
        """Width and type of the features, from one white tile; a broken encoder shows before hours of reading."""
        tile = torch.full((3, size, size), 255, dtype=torch.uint8)
        features = self((tile if transform is None else transform(tile)).unsqueeze(0))
        return FeatureKind(features.shape[1], features.dtype)


def device_of(encoder: Encoder, device: torch.device | str | None) -> torch.device:
    """The device that was asked for, or that of the encoder's parameters, or the CPU."""
    if device is not None:
        return torch.device(device)
    parameter = next(encoder.parameters(), None) if isinstance(encoder, nn.Module) else None
    return torch.device("cpu") if parameter is None else parameter.device
