"""Write the attention to a modality that is read in pieces where it fits: into a file, block by block."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from healnet.fusion import HEALNet
from healnet.streams import Block, Stream

__all__ = ["write_attention"]


@torch.no_grad()
def write_attention(
    model: HEALNet, inputs: Mapping[str, Any], modality: str, out: Any, *, patient: int = 0
) -> Tensor:
    """Write one patient's mean attention to a streamed modality, relative to even attention, and return the model's output.

    A value of 1 is what every real element would get if all were attended alike; the mean over layers, heads and latents.
    Elements that are masked keep the value that `out` has, so fill it with NaN or zeros before.

    Args:
        model: Model in evaluation mode.
        inputs: Inputs of the model; `inputs[modality]` is a `Stream`.
        modality: Modality to write.
        out: Array of floats with the axes of the elements, that takes and gives slices: a NumPy array, a memory map, or a
            dataset of an HDF5 or Zarr file.
        patient: Position of the patient in the batch.

    Raises:
        ValueError: an input that is no `Stream`, a patient without it, an `out` of another shape, an encoder whose tokens
            are no elements (`GridEncoder` with `patch` above 1), or a model in training mode.
    """
    stream = inputs.get(modality)
    if not isinstance(stream, Stream):
        raise ValueError(f"modality {modality!r}: expected a Stream, got {type(stream).__name__}")
    if not 0 <= patient < len(stream) or (pieces := stream.patients[patient]) is None:
        raise ValueError(f"modality {modality!r}: expected a patient who has it, got {patient}")
    if tuple(out.shape) != pieces.sizes:
        raise ValueError(
            f"modality {modality!r}: expected out of shape {pieces.sizes}, got {tuple(out.shape)}"
        )
    if model.training:
        raise ValueError("expected a model in evaluation mode, got one in training mode; call model.eval()")
    layers = len(model.layers)
    masks = [pieces.read_mask(block) for block in pieces.blocks()] if pieces.masked else []
    real = sum(int(mask.sum()) for mask in masks if mask is not None) if masks else math.prod(pieces.sizes)

    def sink(name: str, layer: int, position: int, block: Block, weights: Tensor) -> None:
        if name != modality or position != patient:
            return
        sizes = tuple(part.stop - part.start for part in block)
        if weights.numel() != math.prod(sizes):
            raise ValueError(
                f"modality {modality!r}: expected one token per element, got {weights.numel()} tokens of a block of {sizes}"
            )
        share = (weights.reshape(sizes) * (real / layers)).to(torch.float32).cpu().numpy()
        out[block] = share if layer == 0 else out[block] + share

    output, _ = model.trace(inputs, sink=sink)
    return output
