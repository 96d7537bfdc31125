"""Shapley values of modalities: what each adds to a patient's risk, exactly, by the model's own missing-modality path."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from healnet._evaluation import evaluating
from healnet._plotting import LOWERS, RAISES, direction_legend, new_axes, readable, use_fonts
from healnet.explain._batching import copies
from healnet.explain._checks import modality_names, numbers
from healnet.explain.risk import Risk, resolve_risk, risk_of, warn_if_coarse
from healnet.inputs import hide, present, repeat

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "MOST_PLAYERS",
    "ModalityShapley",
    "plot_contribution_bars",
    "shapley_modalities",
    "shapley_values",
]

MOST_PLAYERS = 8  # 256 coalitions


class ModalityShapley(dict[str, Tensor]):
    """Shapley values of the modalities: modality -> (b,), 0 where a patient lacks it. They sum to `risk - nothing`.

    Attributes:
        risk: (b,) with all that the patient has.
        nothing: (b,) with none of these modalities.
        has: modality -> (b,) bool, who has it.
    """

    def __init__(
        self, values: Mapping[str, Tensor], risk: Tensor, nothing: Tensor, has: Mapping[str, Tensor]
    ) -> None:
        super().__init__(values)
        self.risk = risk
        self.nothing = nothing
        self.has = dict(has)

    def mean(self) -> dict[str, float]:
        """Modality -> mean over the patients who have it; NaN where none has."""
        return {name: float(value[self.has[name]].mean()) for name, value in self.items()}

    def mean_size(self) -> dict[str, float]:
        """Modality -> mean of the size, whatever the direction: how much it moves risks."""
        return {name: float(value[self.has[name]].abs().mean()) for name, value in self.items()}


def shapley_modalities(
    model: nn.Module,
    inputs: Mapping[str, Any],
    *,
    modalities: Iterable[str] | None = None,
    risk: Risk | None = None,
    rows: int = 256,
) -> ModalityShapley:
    """Exact Shapley values (Shapley 1953) of a patient's risk over the modalities, in 2^k forward passes.

    A coalition is scored by hiding the others, as if the patient lacked them; nothing is imputed. A modality that all of
    these patients lack adds nothing and takes no pass. The values are about this model: train with
    `healnet.data.ModalityDropout`, or its answers to rare subsets mean little.

    Args:
        model: Model that takes `inputs`; used in evaluation mode.
        inputs: Inputs of `model.forward`.
        modalities: Names to score, of which these patients have up to 8; all that are there by default. The others stay
            as they are.
        risk: Function from the output to one number per patient; by default as `model.output` says.
        rows: Patients times coalitions in one forward pass, at most; large inputs are copied less often.

    Raises:
        ValueError: An unknown modality, none at all, or more than 8 that are there; an output that is
            neither declared nor read by `risk`.

    Example:
        >>> from healnet import HEALNet
        >>> from healnet.encoders import OmicEncoder
        >>> model = HEALNet({"rna": OmicEncoder(6), "protein": OmicEncoder(3)}, output="cox")
        >>> shares = shapley_modalities(model, {"rna": torch.randn(2, 6), "protein": torch.randn(2, 3)})
        >>> bool((sum(shares.values()) - (shares.risk - shares.nothing)).abs().max() < 1e-5)
        True
    """
    names = modality_names(inputs, modalities)
    has = {name: present(inputs[name]) for name in names}
    # One that all lack has no part in the game; without any, the first stands for what adds nothing.
    players = [name for name in names if has[name].any()] or names[:1]
    if len(players) > MOST_PLAYERS:
        raise ValueError(
            f"expected up to {MOST_PLAYERS} modalities, for exact Shapley values take 2^k passes, "
            f"got {len(players)}: {players}; choose some with modalities=[...]"
        )
    batch = len(has[names[0]])
    parts = []
    with evaluating(model):
        read = resolve_risk(model, inputs, risk)
        for coalitions in torch.arange(2 ** len(players)).split(copies(inputs, rows)):
            shown = {name: repeat(value, len(coalitions)) for name, value in inputs.items()}
            for i, name in enumerate(players):
                shown[name] = hide(shown[name], (coalitions >> i & 1 == 0).repeat_interleave(batch))
            parts.append(risk_of(model, shown, read).reshape(len(coalitions), batch))
    values = torch.cat(parts)
    warn_if_coarse(values)
    shares = dict(zip(players, shapley_values(values).unbind(dim=-1), strict=True))
    nothing = torch.zeros_like(values[0])
    # Two coalitions that differ by what a patient lacks can differ by rounding.
    exact = {n: torch.where(has[n].to(values.device), shares.get(n, nothing), nothing) for n in names}
    return ModalityShapley(exact, values[-1], values[0], has)


def shapley_values(coalitions: Tensor) -> Tensor:
    """Shapley values from the value of every coalition: the mean over orders of what a player adds on joining.

    phi_i = sum over S without i of |S|! (k - |S| - 1)! / k! [v(S + i) - v(S)]

    Args:
        coalitions: v(S), where bit i of the row's number says whether player i is in S; integers count as float32.

    Shape:
        coalitions: (2^k, ...); returns (..., k)

    Raises:
        ValueError: A number of rows that is not a power of two.

    Example:
        Players 0 and 1 hold a left glove each, player 2 a right one; a pair is worth 1.

        >>> shapley_values(torch.tensor([0.0, 0, 0, 0, 0, 1, 1, 1]))
        tensor([0.1667, 0.1667, 0.6667])
    """
    if not coalitions.is_floating_point():
        coalitions = coalitions.float()  # integer weights would all be 0
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


def plot_contribution_bars(
    contributions: Mapping[str, ArrayLike],
    has: Mapping[str, ArrayLike] | None = None,
    *,
    quantity: str = "risk",
    ax: Axes | None = None,
) -> Axes:
    """A bar per modality: what it adds for one patient, or how much it moves the number of many.

    Of one patient a bar to the right, orange, raises, and one to the left, blue, lowers. Of several the bar is the mean
    *size* of what it adds, for means of both signs cancel, and every patient is a dot at its size, colored by its direction.

    Args:
        contributions: modality -> (b,) numbers, as `shapley_modalities` or `occlude_modalities` gives them.
        has: modality -> (b,) bool, who has it (`ModalityShapley.has`); by default everyone.
        quantity: Name of what the contributions add to, with its unit where it has one.
        ax: Axes to draw on; by default new axes of a figure of their own.

    Raises:
        ValueError: No modality, shapes that do not fit, or a number that is not finite.
        ImportError: matplotlib is not installed.
    """
    values = {name: np.atleast_1d(numbers(v)) for name, v in contributions.items()}
    there = {
        name: np.ones(v.shape, bool) if has is None else np.atleast_1d(numbers(has[name]) > 0)
        for name, v in values.items()
    }
    shapes = {name: (v.shape, there[name].shape) for name, v in values.items()}
    if (
        len({shape for pair in shapes.values() for shape in pair}) != 1
        or len(next(iter(shapes.values()))[0]) != 1
    ):
        raise ValueError(
            f"expected contributions and `has` of one shape (b,) for each modality, got {shapes}"
        )
    for name, value in values.items():
        if not np.isfinite(value[there[name]]).all():
            raise ValueError(
                f"modality {name!r}: expected finite contributions of the patients who have it, got {value[there[name]]}"
            )
    several = len(next(iter(values.values()))) > 1
    labels = [readable(name) for name in values]
    if ax is None:
        ax = new_axes(max(5.5, 4.3 + 0.09 * max(map(len, labels))), 1.1 + 0.38 * len(values))
    spread = np.random.default_rng(0).uniform(-0.25, 0.25, len(next(iter(values.values()))))
    for row, (name, value) in enumerate(values.items()):
        own = value[there[name]]
        if not len(own):
            ax.annotate("absent", (0, row), (4, 0), textcoords="offset points", va="center", color="0.4")
        elif several:
            ax.barh(row, np.abs(own).mean(), height=0.7, color="0.8", zorder=1)
            for sign, color in ((1, RAISES), (-1, LOWERS)):
                chosen = np.sign(own) == sign
                ax.plot(
                    np.abs(own)[chosen], (row + spread[there[name]])[chosen], ".", color=color, markersize=4
                )
        else:
            ax.barh(row, own[0], height=0.7, color=RAISES if own[0] > 0 else LOWERS)
    ax.set_yticks(range(len(values)), labels)
    ax.set_ylim(len(values) - 0.4, -0.6)  # an absent one has no bar that would widen the limits
    if several:
        ax.set_xlabel(f"size of the contribution to the {quantity}: bar mean, dot patient")
        direction_legend(ax, np.concatenate([v[there[name]] for name, v in values.items()]), quantity)
    else:
        ax.set_xlabel(f"lowers  ←  contribution to the {quantity}  →  raises")
        ax.axvline(0, color="0.3", linewidth=0.8, zorder=1)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    use_fonts(ax)
    return ax
