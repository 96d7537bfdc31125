"""Faithfulness of a score: curves of the risk as the highest-scored elements are hidden, and as they are shown again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from healnet._evaluation import evaluating
from healnet._plotting import PALETTE, STYLES, Panels, despine, panels, readable, use_fonts
from healnet.explain._checks import modality_names
from healnet.explain.risk import Risk, resolve_risk, risk_of, warn_if_coarse
from healnet.inputs import hide, real_elements

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Faithfulness", "faithfulness", "plot_faithfulness"]


class Faithfulness(NamedTuple):
    """Deletion and insertion curves of one score, per patient, beside those of random orders.

    Shape:
        fractions: (s,) the share of the patient's elements that is hidden, or shown; from 0 to 1.
        deletion: (b, s) the risk with the highest-scored share hidden.
        insertion: (b, s) the risk with only the highest-scored share shown.
        random_deletion, random_insertion: (b, s) means over random orders.
        signed: True if a high score claims to raise the risk, False if only to matter.
    """

    fractions: Tensor
    deletion: Tensor
    insertion: Tensor
    random_deletion: Tensor
    random_insertion: Tensor
    signed: bool

    def area_above_random(self) -> Tensor:
        """(b,) how much more the score's order tells than random ones: larger is better, about 0 is no better than chance.

        The area between insertion and deletion, in units of risk, less the same of random orders. Signed: insertion should
        rise early and deletion fall early. Unsigned: deletion should move the risk away early, insertion bring it back.
        """
        return self._gap(self.deletion, self.insertion) - self._gap(
            self.random_deletion, self.random_insertion
        )

    def _gap(self, deletion: Tensor, insertion: Tensor) -> Tensor:
        if self.signed:
            return torch.trapezoid(insertion - deletion, self.fractions)
        whole = self.deletion[:, :1]
        return torch.trapezoid((deletion - whole).abs() - (insertion - whole).abs(), self.fractions)


def faithfulness(
    model: nn.Module,
    inputs: Mapping[str, Any],
    scores: Mapping[str, Tensor],
    *,
    risk: Risk | None = None,
    signed: bool = True,
    steps: int = 10,
    repeats: int = 3,
    seed: int = 0,
) -> Faithfulness:
    """Hide elements from the highest score down, and show them again in the same order (Petsiuk et al. 2018).

    Of each scored modality the same share goes, in its own order, equal scores in random order; modalities without scores
    stay. Hidden is absent, so no
    stand-in value is made up; still, the model may not have seen such patients, and the last step hides the modality
    altogether, which can make a jump. Compare scores by `area_above_random()` on the same patients.

    Args:
        model: Model that takes `inputs`; used in evaluation mode.
        inputs: Inputs of `model.forward`.
        scores: modality -> (b, *axes), one per element, as `attention_scores` gives them; those of masked elements are not
            looked at.
        risk: Function from the output to one number per patient; by default as `model.output` says.
        signed: True, high scores claim to raise the risk (gradients, occlusion). False, they claim to matter in whichever
            direction (attention); scores are then at least 0, for among scores of both signs, ranked by size, elements
            that raise the risk are hidden together with elements that lower it, and their effects cancel.
        steps: Number of shares between 0 and 1.
        repeats: Number of random orders to compare with.
        seed: Random seed of these orders, and of the order of equal scores.

    Raises:
        ValueError: Scores that are no mapping or of a modality that is not there; scores of another shape, not finite, or
            negative where `signed` is False; fewer than 1 step or random order; an output that is neither declared nor
            read by `risk`.
    """
    if not isinstance(scores, Mapping) or not scores:
        raise ValueError(f"expected scores as a mapping {{modality: tensor}}, got {type(scores).__name__}")
    real = {name: real_elements(inputs[name]) for name in modality_names(inputs, scores)}
    for name, score in scores.items():
        if score.shape != real[name].shape:
            raise ValueError(
                f"modality {name!r}: expected scores of shape {tuple(real[name].shape)}, got {tuple(score.shape)}"
            )
        seen = score[real[name]]
        if not torch.isfinite(seen).all():
            raise ValueError(f"modality {name!r}: expected finite scores of its real elements")
        if not signed and (seen < 0).any():
            raise ValueError(
                f"modality {name!r}: expected scores of at least 0 with signed=False, got {float(seen.min()):.3g}: "
                "effects of both signs cancel where elements are ranked by size; leave signed=True"
            )
    if steps < 1 or repeats < 1:
        raise ValueError(f"expected steps >= 1 and repeats >= 1, got {steps} and {repeats}")
    fractions = torch.linspace(0, 1, steps + 1)
    generator = torch.Generator().manual_seed(seed)

    def curves(order_by: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        tops = {name: _share_above(order, real[name], generator) for name, order in order_by.items()}

        def risk_at(fraction: float, shown: bool) -> Tensor:
            hidden = {
                name: hide(inputs[name], ((top < fraction) ^ shown) & real[name])
                for name, top in tops.items()
            }
            return risk_of(model, {**inputs, **hidden}, read)

        deletion = [risk_at(fraction, shown=False) for fraction in fractions.tolist()]
        insertion = [risk_at(fraction, shown=True) for fraction in fractions.tolist()]
        return torch.stack(deletion, dim=1), torch.stack(insertion, dim=1)

    def at_random() -> dict[str, Tensor]:
        return {name: torch.zeros(mask.shape, device=mask.device) for name, mask in real.items()}

    with evaluating(model):
        read = resolve_risk(model, inputs, risk)
        deletion, insertion = curves(scores)
        warn_if_coarse(deletion)
        random = [curves(at_random()) for _ in range(repeats)]
    random_deletion, random_insertion = (torch.stack(side).mean(dim=0) for side in zip(*random, strict=True))
    return Faithfulness(
        fractions.to(deletion.device), deletion, insertion, random_deletion, random_insertion, signed
    )


def plot_faithfulness(
    curves: Mapping[str, Faithfulness], *, quantity: str = "risk", ax: Axes | None = None
) -> Panels:
    """Mean deletion and insertion curves of several scores side by side, random orders in gray.

    Where the last elements go and where the first come, the whole modality goes or comes with them; the ends where
    a curve may jump for this reason are shaded.

    Args:
        curves: Name of a score -> its curves on the same patients.
        quantity: Name of the risk, with its unit where it has one.
        ax: Axes to draw on, divided into two; by default a figure of its own.

    Raises:
        ValueError: No curves.
        ImportError: matplotlib is not installed.
    """
    if not curves:
        raise ValueError("expected at least one score's curves, got none")
    both = left, right = panels(ax, 1, 2, (8.0, 3.6))
    right.sharey(left)
    first = next(iter(curves.values()))
    share = (100 * first.fractions).tolist()
    for panel, random in ((left, first.random_deletion), (right, first.random_insertion)):
        panel.plot(share, random.mean(dim=0).tolist(), color="0.6", linewidth=3, label="random order")
        despine(panel)
    for i, (name, found) in enumerate(curves.items()):
        x = (100 * found.fractions).tolist()
        # Styles differ, so that a curve that lies on another lets it show.
        look = {
            "color": PALETTE[(i + 1) % 7],
            "linestyle": STYLES[i % 4],
            "label": readable(name, longest=44),
        }
        left.plot(x, found.deletion.mean(dim=0).tolist(), **look)
        right.plot(x, found.insertion.mean(dim=0).tolist(), **look)
    left.axvspan(share[-2], 100, color="0.93", zorder=0)
    right.axvspan(0, share[1], color="0.93", zorder=0)
    left.set(
        xlabel="highest-scored elements hidden (%)\nshaded step: at 100% the modality is absent",
        ylabel=f"mean {quantity}",
        title="Deletion",
    )
    right.set(
        xlabel="highest-scored elements shown (%)\nshaded step: at 0% the modality is absent",
        title="Insertion",
    )
    right.legend(frameon=False, fontsize="small")
    use_fonts(*both)
    return both


def _share_above(scores: Tensor, real: Tensor, generator: torch.Generator) -> Tensor:
    """(b, *axes): the share of a patient's real elements with a higher score, in [0, 1); of masked ones at least 1."""
    flat, mask = scores.flatten(1), real.flatten(1)
    # Equal scores in random order: that of a bag is its rows on the slide.
    shuffled = torch.rand(flat.shape, generator=generator).argsort(dim=1).to(flat.device)
    # Masked elements after all others, whatever their scores.
    ranked = (
        flat.to(torch.promote_types(flat.dtype, torch.float32))
        .masked_fill(~mask, -torch.inf)
        .gather(1, shuffled)
    )
    order = shuffled.gather(1, ranked.argsort(dim=1, descending=True, stable=True))
    ranks = torch.empty_like(order).scatter_(
        1, order, torch.arange(flat.shape[1], device=flat.device).expand_as(order)
    )
    # Half a place inward, so that a share of k / n hides k elements whatever the rounding.
    share = (ranks + 0.5) / mask.sum(dim=1, keepdim=True).clamp(min=1)
    return share.reshape(scores.shape)
