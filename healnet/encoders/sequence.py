"""Time series: a token per step, measured at irregular times, with values missing here and there."""

from __future__ import annotations

import torch
from torch import Tensor

from healnet.encoders.base import ModalityEncoder
from healnet.inputs import Masked, TimeSeries, broadcast_mask, unmask
from healnet.nn.extent import within_extent, within_scale
from healnet.nn.fourier import fourier_features, fourier_width
from healnet.nn.token_shards import TokenShards
from healnet.tokens import Tokens

__all__ = ["SequenceEncoder"]


class SequenceEncoder(ModalityEncoder):
    """Steps as tokens: the measured values (0 where missing), which were measured, and Fourier features of the time.

    With `duration`, time 0 is at -1 and `duration` at 1, for all patients: give it in the unit of the times to keep real
    time, durations between patients included. Without, the first and the last real step of a patient are at -1 and 1.
    Either way padding and the order of steps change nothing. A step without any value is masked. Nothing is learned here.

    Args:
        channels: Values per step.
        num_bands: Frequencies of time; 0 leaves the time alone.
        max_freq: Sampling rate whose Nyquist frequency is the highest band: 32 resolves a sixteenth of the duration.
        duration: Time that spans [-1, 1] from 0, or None for each patient's own span.

    Shape:
        inputs: TimeSeries of values (b, t, c), times (b, t) and mask (b, t, c) or (b, t); or, for evenly spaced steps at
            times 0, 1, 2, ..., a plain (b, t, c) tensor or Masked with a mask of (b,), (b, t) or (b, t, c)
        returns: (b, t, token_dim)

    Raises:
        ValueError: A `duration` that is not positive; another number of axes or channels; times or a mask of another shape.

    Example:
        >>> encoder = SequenceEncoder(channels=12, num_bands=4, duration=48.0)  # hours
        >>> series = TimeSeries(torch.randn(2, 30, 12), 48 * torch.rand(2, 30), torch.rand(2, 30, 12) > 0.5)
        >>> encoder(series).values.shape  # 12 values, 12 flags, and 4 sines, 4 cosines and the time
        torch.Size([2, 30, 33])
    """

    splits = True

    def __init__(
        self, channels: int, num_bands: int = 6, max_freq: float = 32.0, duration: float | None = None
    ) -> None:
        super().__init__()
        if duration is not None and not duration > 0:
            raise ValueError(f"expected a positive duration or None, got {duration}")
        self.channels = channels
        self.num_bands = num_bands
        self.max_freq = max_freq
        self.duration = duration
        self.token_dim = 2 * channels + fourier_width(1, num_bands)

    def extra_repr(self) -> str:
        """Return the text that `repr` shows."""
        return (
            f"channels={self.channels}, num_bands={self.num_bands}, max_freq={self.max_freq}, "
            f"duration={self.duration}"
        )

    def forward(self, inputs: TimeSeries | Tensor | Masked, shards: TokenShards | None = None) -> Tokens:
        """Encode a batch of series; with `shards`, this process's steps of them, in the order of the processes."""
        times: Tensor | None = None
        if isinstance(inputs, TimeSeries):
            values, mask = unmask(Masked(inputs.values, inputs.mask))
            times = inputs.times
        else:
            values, mask = unmask(inputs)
        if values.dim() != 3 or values.shape[2] != self.channels:
            raise ValueError(f"expected values of shape (b, t, {self.channels}), got {tuple(values.shape)}")
        steps = values.shape[:2]
        if times is None:
            start = 0 if shards is None else sum(shards.sizes(steps[1], values.device)[: shards.rank])
            times = torch.arange(start, start + steps[1], device=values.device).expand(steps)
        elif times.shape != steps:
            raise ValueError(f"expected times of shape {tuple(steps)}, got {tuple(times.shape)}")
        measured = _measured(mask, values)
        step_mask = None if mask is None else measured.any(dim=-1)
        # Seconds since 1970 have steps of two minutes in float32. Apple's GPUs have nothing finer.
        exact = torch.float32 if times.device.type == "mps" else torch.float64
        places = times.to(exact).unsqueeze(-1)
        if self.duration is None:
            places = within_extent(places, step_mask, shards=shards)
        else:
            places = within_scale(places, step_mask, self.duration)
        dtype = torch.float64 if values.dtype == torch.float64 else torch.float32
        features = fourier_features(places.to(dtype), self.num_bands, self.max_freq).to(values.dtype)
        parts = (values.masked_fill(~measured, 0), measured.to(values.dtype), features)
        return Tokens(torch.cat(parts, dim=-1), step_mask)


def _measured(mask: Tensor | None, values: Tensor) -> Tensor:
    """A mask of (b,), (b, t) or (b, t, c) as (b, t, c)."""
    if mask is None:
        return torch.ones_like(values, dtype=torch.bool)
    shapes = [values.shape[: 1 + axis] for axis in range(3)]
    if mask.shape not in shapes:
        wanted = ", ".join(str(tuple(shape)) for shape in shapes)
        raise ValueError(f"expected a mask of one of the shapes {wanted}, got {tuple(mask.shape)}")
    return broadcast_mask(mask, values.shape)
