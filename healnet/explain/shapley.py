"""What each modality adds to a patient's risk: exact Shapley values, by the model's own missing-modality path."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from healnet._plotting import LOWERS, RAISES, new_axes, readable
from healnet.explain._inputs import copies
from healnet.explain._model import Risk, default_risk, evaluating, risk_of
from healnet.inputs import batch_size, hide, present, repeat

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ModalityShapley", "contribution_bars", "shapley_modalities", "shapley_values"]

MOST_PLAYERS = 8  # 256 coalitions


class ModalityShapley(NamedTuple):
    """Shapley values of the modalities, per patient.

    Shape:
        names: k modalities.
        values: (b, k); 0 where a patient lacks the modality. `values.sum(1) == risk - nothing`.
        risk: (b,) with all that the patient has.
        nothing: (b,) with no modality at all.
        has: (b, k) bool.
    """

    names: tuple[str, ...]
    values: Tensor
    risk: Tensor
    nothing: Tensor
    has: Tensor

    def mean(self) -> Tensor:
        """(k,) the cohort's mean over the patients who have the modality; NaN where nobody has."""
        return torch.where(self.has, self.values, 0).sum(dim=0) / self.has.sum(dim=0)

    def mean_size(self) -> Tensor:
        """(k,) likewise of the size, whatever the direction: how much the modality moves risks."""
        return torch.where(self.has, self.values.abs(), 0).sum(dim=0) / self.has.sum(dim=0)


def shapley_modalities(
    model: nn.Module, inputs: Mapping[str, Any], risk: Risk = default_risk, rows: int = 256
) -> ModalityShapley:
    """Exact Shapley values (Shapley 1953) of a patient's risk over the modalities, in 2^k forward passes.

    A coalition is scored by hiding the others, as if the patient lacked them; nothing is imputed. They are about this model:
    train with `healnet.data.ModalityDropout`, or its answers to rare subsets mean little.

    Args:
        model: any model that takes `inputs`; used in evaluation mode.
        inputs: as for `model.forward`, with up to 8 modalities.
        risk: one number per patient from the output.
        rows: patients times coalitions in one forward pass, at most; large inputs are copied less often.

    Raises:
        ValueError: no modality, or more than 8.

    Example:
        >>> from healnet import HEALNet
        >>> from healnet.encoders import OmicEncoder
        >>> model = HEALNet({"rna": OmicEncoder(6), "protein": OmicEncoder(3)})
        >>> shares = shapley_modalities(model, {"rna": torch.randn(2, 6), "protein": torch.randn(2, 3)})
        >>> bool((shares.values.sum(1) - (shares.risk - shares.nothing)).abs().max() < 1e-5)
        True
    """
    batch_size(inputs)
    names = tuple(name for name, given in inputs.items() if given is not None)
    if len(names) > MOST_PLAYERS:
        raise ValueError(
            f"exact Shapley values are for up to {MOST_PLAYERS} modalities (2^k passes), got {len(names)}: {list(names)}"
        )
    has = torch.stack([present(inputs[name]) for name in names], dim=1)
    parts = []
    with evaluating(model):
        for coalitions in torch.arange(2 ** len(names)).split(copies(inputs, rows)):
            repeated = {name: repeat(inputs[name], len(coalitions)) for name in names}
            shown = {
                name: hide(value, (coalitions >> i & 1 == 0).repeat_interleave(len(has)))
                for i, (name, value) in enumerate(repeated.items())
            }
            parts.append(risk_of(model, shown, risk).reshape(len(coalitions), len(has)))
    values = torch.cat(parts)
    return ModalityShapley(names, shapley_values(values), values[-1], values[0], has)


def shapley_values(coalitions: Tensor) -> Tensor:
    """Shapley values from the value of every coalition: the mean over orders of what a player adds on joining.

    phi_i = sum over S without i of |S|! (k - |S| - 1)! / k! [v(S + i) - v(S)]

    Args:
        coalitions: v(S), where bit i of the row's number says whether player i is in S.

    Shape:
        coalitions: (2^k, ...); returns (..., k)

    Raises:
        ValueError: a number of rows that is not a power of two.

    Example:
        Players 0 and 1 hold a left glove each, player 2 a right one; a pair is worth 1.

        >>> shapley_values(torch.tensor([0.0, 0, 0, 0, 0, 1, 1, 1]))
        tensor([0.1667, 0.1667, 0.6667])
    """
    players = len(coalitions).bit_length() - 1
    if len(coalitions) != 2**players:
        raise ValueError(f"expected the values of all 2^k coalitions, got {len(coalitions)}")
    sets = torch.arange(len(coalitions), device=coalitions.device)
    size = sum((sets >> i & 1 for i in range(players)), torch.zeros_like(sets))
    # By the size of S: how many orders let exactly S come before i.
    orders = [
        math.factorial(s) * math.factorial(players - s - 1) / math.factorial(players) for s in range(players)
    ]
    weight = torch.tensor([*orders, 0.0], dtype=coalitions.dtype, device=coalitions.device)[size]
    shares = []
    for i in range(players):
        without = sets[(sets >> i & 1) == 0]
        added = coalitions[without + 2**i] - coalitions[without]
        shares.append(torch.tensordot(weight[without], added, dims=1))
    return torch.stack(shares, dim=-1)


def contribution_bars(
    names: Sequence[str],
    values: ArrayLike,
    has: ArrayLike | None = None,
    ax: Axes | None = None,
    xlabel: str = "contribution to the risk",
) -> Axes:
    """A bar per modality: right and orange raises the risk, left and blue lowers it; "absent" where the patient lacks it.

    For several patients a bar is their mean and every patient is a dot.

    Args:
        names: (k,) modalities.
        values: (k,) of one patient, or (b, k).
        has: bool, of the shape of `values`; default: everything is there.
        ax: where to draw; by default new axes of a figure of their own.
        xlabel: what a bar measures.

    Raises:
        ValueError: shapes that do not fit.
        ImportError: matplotlib is not installed.
    """
    numbers = np.atleast_2d(np.asarray(values, dtype=np.float64))
    there = np.ones(numbers.shape, bool) if has is None else np.atleast_2d(np.asarray(has, dtype=bool))
    if numbers.ndim != 2 or numbers.shape[1] != len(names) or there.shape != numbers.shape:
        raise ValueError(
            f"expected values of shape ({len(names)},) or (b, {len(names)}) and `has` alike, "
            f"got {np.shape(values)} and {there.shape}"
        )
    labels = [readable(name) for name in names]
    if ax is None:
        ax = new_axes(max(5.5, 4.3 + 0.09 * max(map(len, labels), default=0)), 0.9 + 0.38 * len(names))
    ax.axvline(0, color="0.3", linewidth=0.8, zorder=1)
    spread = np.random.default_rng(0).uniform(-0.25, 0.25, len(numbers))
    for row, name in enumerate(names):
        own = numbers[there[:, row], row]
        if not len(own):
            ax.annotate("absent", (0, row), (4, 0), textcoords="offset points", va="center", color="0.4")
            continue
        bar = own.mean()
        ax.barh(
            row, bar, height=0.7, color=RAISES if bar > 0 else LOWERS, alpha=1.0 if len(own) == 1 else 0.6
        )
        if len(numbers) > 1:
            ax.plot(own, row + spread[there[:, row]], ".", color="0.2", markersize=3, alpha=0.7, label=name)
    ax.set_yticks(range(len(names)), labels)
    ax.set_ylim(len(names) - 0.4, -0.6)  # an absent one has no bar that would make room
    ax.set_xlabel(f"lowers  ←  {xlabel}  →  raises")
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    return ax
