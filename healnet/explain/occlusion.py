"""Occlusion: how the risk changes when a block of tokens, a gene or a modality is absent. Exact: absence is supported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from healnet._evaluation import evaluating
from healnet.explain._batching import copies
from healnet.explain._checks import modality_names
from healnet.explain.risk import Risk, resolve_risk, risk_of, warn_if_coarse
from healnet.inputs import batch_size, hide, present, real_elements, repeat
from healnet.streams import Stream

__all__ = ["group_by_square", "occlude", "occlude_modalities"]


def occlude(
    model: nn.Module,
    inputs: Mapping[str, Any],
    *,
    modalities: Iterable[str] | None = None,
    risk: Risk | None = None,
    groups: Mapping[str, Tensor] | None = None,
    rows: int = 256,
) -> dict[str, Tensor]:
    """Risk with everything less risk without one group of elements: what the group adds. Positive: it raises the risk.

    Elements are the features of a table, the patches of a bag, the pixels of an image: what a mask of the modality has.
    With `OmicEncoder(tokens=k)` or "vector" a hidden feature enters as 0, the training mean of a standardized one. With
    `PatchEncoder` places are fractions of the box around the real patches, so that hiding a patch at its border moves the
    others; a fixed `scale` keeps them. A `Stream` is read once per group and layer, and so needs `groups`.

    Args:
        model: Model that takes `inputs`; used in evaluation mode.
        inputs: Inputs of `model.forward`.
        modalities: Names to score, one after the other; all that are there by default.
        risk: Function from the output to one number per patient; by default as `model.output` says.
        groups: modality -> number of the group that each element belongs to, 0..g-1, or -1 for those that are never hidden;
            (*axes) for all patients or (b, *axes). By default each element is a group of its own.
        rows: Patients times groups in one forward pass, at most; large inputs are copied less often.

    Shape:
        returns: modality -> (b, g); 0 where a patient has nothing of that group.

    Raises:
        ValueError: An unknown modality; groups that are not integers, do not fit the modality's elements or are of a
            modality that is not scored; none for a `Stream`; an output that is neither declared nor read by `risk`.

    Example:
        >>> from healnet import HEALNet
        >>> from healnet.encoders import OmicEncoder
        >>> model, inputs = HEALNet({"rna": OmicEncoder(6)}, output="cox"), {"rna": torch.randn(2, 6)}
        >>> occlude(model, inputs)["rna"].shape
        torch.Size([2, 6])
        >>> occlude(model, inputs, groups={"rna": torch.tensor([0, 0, 0, 1, 1, -1])})["rna"].shape
        torch.Size([2, 2])
    """
    names = modality_names(inputs, modalities)
    for name in groups or {}:
        if name not in names:
            raise ValueError(f"modality {name!r}: expected groups of the scored modalities {names}")
    real = {name: real_elements(inputs[name]) for name in names}
    for name in names:
        if isinstance(inputs[name], Stream) and name not in (groups or {}):
            raise ValueError(
                f"modality {name!r}: expected groups of the elements of a Stream, which is read for each of them, got none"
            )
    numbered = {name: _checked_groups((groups or {}).get(name), real[name], name) for name in names}
    at_once = copies(inputs, rows)
    scores = {}
    with evaluating(model):
        read = resolve_risk(model, inputs, risk)
        whole = risk_of(model, inputs, read)
        warn_if_coarse(whole)
        for name, group in numbered.items():
            count = int(group.max()) + 1
            scores[name] = whole.new_zeros(len(whole), count)
            for start in range(0, count, at_once):
                ids = torch.arange(start, min(start + at_once, count), device=group.device)
                hidden = (group.unsqueeze(0) == ids.reshape(-1, *[1] * group.dim())).flatten(0, 1)
                repeated = {other: repeat(value, len(ids)) for other, value in inputs.items()}
                repeated[name] = hide(repeated[name], hidden)
                without = risk_of(model, repeated, read).reshape(len(ids), -1)
                touched = (hidden.reshape(len(ids), *real[name].shape) & real[name]).flatten(2).any(dim=2)
                scores[name][:, ids] = torch.where(touched, whole - without, 0).T
    return scores


def occlude_modalities(
    model: nn.Module,
    inputs: Mapping[str, Any],
    *,
    modalities: Iterable[str] | None = None,
    risk: Risk | None = None,
) -> dict[str, Tensor]:
    """Risk with everything less risk without one whole modality, for each. Positive: having it raises the risk.

    What two modalities both say counts for neither; `shapley_modalities` shares it out.

    Args:
        model: Model that takes `inputs`; used in evaluation mode.
        inputs: Inputs of `model.forward`.
        modalities: Names to score; all that are there by default.
        risk: Function from the output to one number per patient; by default as `model.output` says.

    Shape:
        returns: modality -> (b,); 0 for a patient who lacks it anyway.

    Raises:
        ValueError: An unknown modality, inputs without any, or an output that is neither declared nor read by `risk`.
    """
    batch_size(inputs)
    result = {}
    with evaluating(model):
        read = resolve_risk(model, inputs, risk)
        whole = risk_of(model, inputs, read)
        warn_if_coarse(whole)
        for name in modality_names(inputs, modalities):
            there = present(inputs[name])
            without = risk_of(model, {**inputs, name: hide(inputs[name], there)}, read)
            result[name] = torch.where(there.to(whole.device), whole - without, 0)
    return result


def group_by_square(coords: ArrayLike, side: float) -> NDArray[np.int64]:
    """Groups for `occlude`: patches whose corners fall into the same square of `side` level-0 pixels.

    Args:
        coords: (n, 2) corners (x, y).
        side: Length of a square's side.

    Returns:
        (n,) group numbers 0..g-1, by row and then by column of the squares.

    Raises:
        ValueError: Coordinates of another shape, or a side that is not positive.

    Example:
        >>> group_by_square([[0, 0], [512, 0], [1024, 0], [0, 1024]], side=1024)
        array([0, 0, 1, 2])
    """
    places = np.asarray(coords)
    if places.ndim != 2 or places.shape[1] != 2 or not side > 0:
        raise ValueError(f"expected coords (n, 2) and a positive side, got {places.shape} and {side}")
    squares = np.floor(places[:, ::-1] / side).astype(np.int64)
    return np.unique(squares, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _checked_groups(groups: Tensor | None, real: Tensor, modality: str) -> Tensor:
    """(b, *axes) integers; by default each element is a group of its own."""
    if groups is None:
        groups = torch.arange(real[0].numel()).reshape(real.shape[1:])
    if (
        groups.is_floating_point()
        or groups.dtype == torch.bool
        or groups.shape not in (real.shape, real.shape[1:])
    ):
        raise ValueError(
            f"modality {modality!r}: expected integer groups of shape {tuple(real.shape[1:])} or {tuple(real.shape)}, "
            f"got {groups.dtype} of shape {tuple(groups.shape)}"
        )
    if groups.numel() == 0 or int(groups.max()) < 0:
        raise ValueError(f"modality {modality!r}: expected at least one group, got none")
    if int(groups.max()) >= groups.numel():
        raise ValueError(
            f"modality {modality!r}: expected groups 0..g-1 of {groups.numel()} elements, got number {int(groups.max())}; "
            "torch.unique(groups, return_inverse=True)[1] numbers them"
        )
    return groups.to(real.device).expand(real.shape)
