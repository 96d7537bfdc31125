"""Occlusion: how the risk changes when a block of tokens, a gene or a modality is absent. Exact: absence is supported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from healnet.explain._inputs import check_modality, copies
from healnet.explain._model import Risk, default_risk, evaluating, risk_of
from healnet.inputs import batch_size, hide, present, real_elements, repeat

__all__ = ["occlude", "occlude_modalities", "tiles_of"]


def occlude(
    model: nn.Module,
    inputs: Mapping[str, Any],
    modality: str,
    groups: Tensor | None = None,
    risk: Risk = default_risk,
    rows: int = 256,
) -> Tensor:
    """Risk with everything less risk without one group of elements: what the group adds. Positive: it raises the risk.

    Elements are the features of a table, the patches of a bag, the pixels of an image: what a mask of the modality has.
    With `OmicEncoder(tokens=k)` or "vector" a hidden feature enters as 0, the training mean of a standardized one. With
    `PatchEncoder` places are fractions of the box around the real patches, so that hiding a patch at its border moves the
    others; a fixed `scale` keeps them.

    Args:
        model: any model that takes `inputs`; used in evaluation mode.
        inputs: as for `model.forward`.
        modality: where to hide.
        groups: which group each element belongs to, 0..g-1, or -1 for those that are never hidden; (*axes) for all patients
            or (b, *axes). By default each element is a group of its own.
        risk: one number per patient from the output.
        rows: patients times groups in one forward pass, at most; large inputs are copied less often.

    Shape:
        returns: (b, g); 0 where a patient has nothing of that group.

    Raises:
        ValueError: a modality that is not there; groups that are not integers or do not fit the modality's elements.

    Example:
        >>> from healnet import HEALNet
        >>> from healnet.encoders import OmicEncoder
        >>> model = HEALNet({"rna": OmicEncoder(6)})
        >>> by_gene = occlude(model, {"rna": torch.randn(2, 6)}, "rna")
        >>> by_gene.shape, occlude(model, {"rna": torch.randn(2, 6)}, "rna", torch.tensor([0, 0, 0, 1, 1, -1])).shape
        (torch.Size([2, 6]), torch.Size([2, 2]))
    """
    value = check_modality(inputs, modality)
    real = real_elements(value)
    if groups is None:
        groups = torch.arange(real[0].numel(), device=real.device).reshape(real.shape[1:])
    groups = _checked_groups(groups, real, modality)
    count, batch = int(groups.max()) + 1, len(real)
    at_once = copies(inputs, rows)
    with evaluating(model):
        whole = risk_of(model, inputs, risk)
        scores = whole.new_zeros(batch, count)
        for start in range(0, count, at_once):
            ids = torch.arange(start, min(start + at_once, count), device=groups.device)
            hidden = (groups.unsqueeze(0) == ids.reshape(-1, *[1] * groups.dim())).flatten(0, 1)
            repeated = {name: repeat(given, len(ids)) for name, given in inputs.items()}
            repeated[modality] = hide(repeated[modality], hidden)
            without = risk_of(model, repeated, risk).reshape(len(ids), batch)
            touched = (hidden.reshape(len(ids), *real.shape) & real).flatten(2).any(dim=2)
            scores[:, ids] = torch.where(touched, whole - without, 0).T
    return scores


def occlude_modalities(
    model: nn.Module,
    inputs: Mapping[str, Any],
    risk: Risk = default_risk,
    modalities: Iterable[str] | None = None,
) -> dict[str, Tensor]:
    """Risk with everything less risk without one whole modality, for each. Positive: having it raises the risk.

    What two modalities both say counts for neither; `shapley_modalities` shares it out.

    Args:
        model: any model that takes `inputs`; used in evaluation mode.
        inputs: as for `model.forward`.
        risk: one number per patient from the output.
        modalities: which ones; all that are there by default.

    Shape:
        returns: modality -> (b,); 0 for a patient who lacks it anyway.

    Raises:
        ValueError: a modality that is not there, or none at all.
    """
    batch_size(inputs)
    names = [name for name, given in inputs.items() if given is not None]
    result = {}
    with evaluating(model):
        whole = risk_of(model, inputs, risk)
        for name in names if modalities is None else modalities:
            value = check_modality(inputs, name)
            there = present(value)
            without = risk_of(model, {**inputs, name: hide(value, there)}, risk)
            result[name] = torch.where(there.to(whole.device), whole - without, 0)
    return result


def tiles_of(coords: ArrayLike, side: float) -> NDArray[np.int64]:
    """Groups for `occlude`: patches whose corners fall into the same square of `side` level-0 pixels.

    Args:
        coords: (n, 2) corners (x, y).
        side: of a square.

    Returns:
        (n,) group numbers 0..g-1, by row and then by column of the squares.

    Raises:
        ValueError: coordinates of another shape, or a side that is not positive.

    Example:
        >>> tiles_of([[0, 0], [512, 0], [1024, 0], [0, 1024]], side=1024)
        array([0, 0, 1, 2])
    """
    places = np.asarray(coords)
    if places.ndim != 2 or places.shape[1] != 2 or not side > 0:
        raise ValueError(f"expected coords (n, 2) and a positive side, got {places.shape} and {side}")
    squares = np.floor(places[:, ::-1] / side).astype(np.int64)
    return np.unique(squares, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _checked_groups(groups: Tensor, real: Tensor, modality: str) -> Tensor:
    """(b, *axes) integers."""
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
    return groups.to(real.device).expand(real.shape)
