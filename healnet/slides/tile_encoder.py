"""Run an encoder on tiles: its device, mode and precision, and checks of what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["Encoder", "FeatureKind", "TileEncoder", "device_of", "encoders_by_name"]

Encoder = Callable[[Tensor], Tensor]
Array = np.ndarray[Any, Any]

# Largest relative distance of two outputs that count as the same. Other hardware and other batch sizes give 1e-6, bfloat16
# for float32 about 1e-2, other weights or another normalization of the tiles 0.1 to 1.
SAME = 0.02
PROBE_VALUES = 256  # values of the output on the probe that are stored in every file


@dataclass(frozen=True)
class FeatureKind:
    """Output of an encoder for a fixed probe: width, type and some values, by which later runs recognize it.

    Attributes:
        dim: Width of the features.
        dtype: NumPy type of the features.
        probe: (p,) float32, values of the features of two fixed tiles.
    """

    dim: int
    dtype: np.dtype[Any]
    probe: Array

    def differs(self, dim: int, probe: Array | None) -> str:
        """Differences of a stored width and probe from these, as text for a message; empty if they do not.

        Args:
            dim: Stored width.
            probe: Stored values on the probe, None where they were not written.
        """
        if dim != self.dim:
            return f"features of width {dim}, this encoder gives {self.dim}"
        if probe is None:
            return "no output on the probe tiles, so the encoder cannot be recognized"
        distance = _distance(probe, self.probe) if probe.shape == self.probe.shape else 1.0
        if distance > SAME:
            what = "another encoder or another normalization of the tiles"
            return f"{what} (outputs on two fixed tiles differ by {distance:.0%})"
        return ""


@dataclass(eq=False)
class TileEncoder:
    """An encoder on its device, from a batch of tiles to rows of NumPy.

    Attributes:
        encoder: (b, 3, size, size) to (b, d).
        device: Device of the tiles.
        autocast: Type for mixed precision, or None.
    """

    encoder: Encoder
    device: torch.device
    autocast: torch.dtype | None
    _pixels: Tensor | None = field(default=None, init=False, repr=False)

    def __call__(self, tiles: Tensor) -> Array:
        """(b, 3, size, size), uint8 (which becomes float from 0 to 1) or as the encoder takes it, to (b, d).

        Raises:
            ValueError: The encoder returns another shape, or numbers that are not floating point.
        """
        tiles = tiles.to(self.device, non_blocking=True)
        if tiles.dtype == torch.uint8:  # sent as bytes: a quarter of the traffic
            tiles = self._fractions(tiles)
        with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            features = self.encoder(tiles)
        if not isinstance(features, Tensor) or features.dim() != 2 or len(features) != len(tiles):
            got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(
                f"expected an encoder that returns ({len(tiles)}, d) for {len(tiles)} tiles, got {got}"
            )
        if not features.is_floating_point():
            raise ValueError(f"expected floating-point features of the encoder, got {features.dtype}")
        if features.dtype == torch.bfloat16:  # which NumPy and HDF5 lack
            features = features.float()
        return features.cpu().numpy().copy()  # a copy, for features may be a view of the tiles

    def probe(self, size: int, transform: Callable[[Tensor], Tensor] | None) -> FeatureKind:
        """Width, type and values of the features of two fixed tiles; a broken encoder shows before hours of reading.

        Raises:
            ValueError: As calling it; features that are not finite, or that depend on chance or on the other tiles of the
                batch, as dropout and batch statistics of a module in training mode do.
        """
        tiles = [_pattern(size), _pattern(size).flip((1, 2)) // 3]
        batch = torch.stack([tile if transform is None else transform(tile) for tile in tiles])
        alone, together = self(batch[:1]), self(batch)
        if not np.isfinite(together).all():
            raise ValueError(
                "expected finite features of the encoder, got NaN or infinity for a test pattern"
            )
        if _distance(alone[0], together[0]) > SAME:
            raise ValueError(
                "expected an encoder that gives a tile the same features alone and beside others, got features that "
                f"differ by {_distance(alone[0], together[0]):.0%}; is a module in it in training mode?"
            )
        values = together.astype(np.float32).reshape(-1)
        chosen = np.linspace(0, len(values) - 1, min(len(values), PROBE_VALUES)).round().astype(int)
        return FeatureKind(together.shape[1], together.dtype, values[chosen])

    def _fractions(self, tiles: Tensor) -> Tensor:
        """Float32 from 0 to 1, in memory that the next batch uses again: new memory takes five times as long to write."""
        if (
            self._pixels is None
            or self._pixels.shape[1:] != tiles.shape[1:]
            or len(self._pixels) < len(tiles)
        ):
            self._pixels = torch.empty(tiles.shape, device=tiles.device)
        return self._pixels[: len(tiles)].copy_(tiles).div_(255)


def device_of(encoder: Encoder, device: torch.device | str | None) -> torch.device:
    """The given device, or that of the encoder's parameters, or the CPU."""
    if device is not None:
        return torch.device(device)
    parameter = next(encoder.parameters(), None) if isinstance(encoder, nn.Module) else None
    return torch.device("cpu") if parameter is None else parameter.device


def _pattern(size: int) -> Tensor:
    """(3, size, size) uint8: stripes of three colors at several scales."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return torch.stack(((x * 5 + y) % 256, (x * y // 7) % 256, (x // 16 * 40 + y // 16 * 60) % 256)).to(
        torch.uint8
    )


def _distance(first: Array, second: Array) -> float:
    one, two = first.astype(np.float64), second.astype(np.float64)
    scale = max(float(np.linalg.norm(one)), float(np.linalg.norm(two)), 1e-30)
    return float(np.linalg.norm(one - two)) / scale


def encoders_by_name(encoder: Encoder | Mapping[str, Encoder], name: str | None) -> dict[str, Encoder]:
    """The encoders of a run by the names that are written into its files.

    Raises:
        ValueError: No encoder, one without a name, or a name beside several.
    """
    if isinstance(encoder, Mapping):
        if not encoder or name is not None:
            raise ValueError("expected at least one encoder by name, and no encoder_name beside them")
        return dict(encoder)
    name = name or str(getattr(encoder, "__name__", type(encoder).__name__))
    if name in ("<lambda>", "partial"):
        raise ValueError(f"expected encoder_name for an encoder without a name of its own, got {name}")
    return {name: encoder}
