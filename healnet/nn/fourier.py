"""Fourier features of positions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["fourier_features", "fourier_width"]


def fourier_width(num_axes: int, num_bands: int) -> int:
    """Number of channels that `fourier_features` makes: a sine and a cosine per band, and the coordinate, per axis.

    Raises:
        ValueError: A negative `num_bands`, here so that an encoder is refused before it sees data.
    """
    if num_bands < 0:
        raise ValueError(f"expected num_bands to be at least 0, got {num_bands}")
    return num_axes * (2 * num_bands + 1)


def fourier_features(positions: Tensor, num_bands: int, max_freq: float) -> Tensor:
    """Sines and cosines of each coordinate at rising frequencies, followed by the coordinate itself, per axis.

    For each axis: sin(π f x) for f in linspace(1, max_freq / 2, num_bands), then cos(π f x), then x (Jaegle et al. 2021,
    Perceiver, arXiv 2103.03206, sec. 3.2; the order is that of HEALNet's release).

    Args:
        positions: Coordinates, on [-1, 1] where they are relative.
        num_bands: Number of frequencies; 0 leaves the coordinate alone.
        max_freq: Sampling rate whose Nyquist frequency is the highest band.

    Shape:
        positions: (..., a) -> (..., a * (2 * num_bands + 1))

    Example:
        >>> fourier_features(torch.tensor([[0.5]]), num_bands=1, max_freq=2.0)
        tensor([[ 1.0000e+00, -4.3711e-08,  5.0000e-01]])
    """
    scales = torch.linspace(1.0, max_freq / 2, num_bands, device=positions.device, dtype=positions.dtype)
    angles = positions.unsqueeze(-1) * scales * math.pi
    features = torch.cat((angles.sin(), angles.cos(), positions.unsqueeze(-1)), dim=-1)
    return features.flatten(-2)
