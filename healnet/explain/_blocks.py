"""Scores of streamed data, which come in blocks, as one tensor."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from healnet.streams import Block, Stream

__all__ = ["by_element", "joined"]


def joined(modality: str, stream: Stream, walk: Callable[[int], Iterator[tuple[Block, Tensor]]]) -> Tensor:
    """The scores of all elements of all patients, 0 beyond the end of smaller ones and in what is not read.

    Args:
        modality: Name of the modality, for errors.
        stream: Its input.
        walk: Function that gives the scores of each block of a patient.

    Shape:
        returns: (b, *axes), each axis as long as the longest patient's

    Raises:
        ValueError: Tokens that are no elements.
    """
    sizes = [pieces.sizes for pieces in stream.patients if pieces is not None]
    shape = [max(axis) for axis in zip(*sizes, strict=True)] or [0]
    scores: Tensor | None = None
    for patient, pieces in enumerate(stream.patients):
        if pieces is None:
            continue
        for block, found in walk(patient):
            if scores is None:
                scores = found.new_zeros(len(stream), *shape)
            scores[patient][block] = by_element(modality, block, found)
    return torch.zeros(len(stream), *shape) if scores is None else scores


def by_element(modality: str, block: Block, scores: Tensor) -> Tensor:
    """The scores (n,) of the tokens of a block with the axes of its elements.

    Raises:
        ValueError: Tokens that are no elements.
    """
    sizes = tuple(part.stop - part.start for part in block)
    if scores.numel() != math.prod(sizes):
        raise ValueError(
            f"modality {modality!r}: expected one token per element, got {scores.numel()} tokens of a block of {sizes}"
        )
    return scores.reshape(sizes)
