"""One HTML file per patient: curve, modality contributions, maps, genes. Opens offline, on a desk or a phone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from healnet._files import atomic_path
from healnet._plotting import png
from healnet.explain import _html
from healnet.explain._checks import modality_names
from healnet.explain.gradients import gradient_x_input
from healnet.explain.risk import Risk
from healnet.explain.shapley import ModalityShapley, shapley_modalities
from healnet.inputs import batch_size, real_elements, values_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from healnet._plotting import Panels

__all__ = ["report"]

_FOOT = (
    "For research. These figures say what the model computed, not what is true of the patient: a contribution is about this "
    "model and its training data, and attention is not by itself an explanation."
)
_LACKS = "The patient lacks this modality."


def report(
    model: nn.Module,
    inputs: Mapping[str, Any],
    patient: str,
    folder: str | Path,
    *,
    risk: Risk | None = None,
    curve: tuple[ArrayLike | Tensor, ArrayLike | Tensor] | None = None,
    curve_steps: bool = False,
    time_unit: str = "days",
    cohort_risks: ArrayLike | Tensor | None = None,
    features: Mapping[str, Sequence[str]] | None = None,
    maps: Mapping[str, Figure | Axes | Panels | bytes] | None = None,
    k: int = 12,
) -> Path:
    """Write ``report_<patient>.html`` about one patient and return its path.

    Contributions are Shapley values over the modalities; genes are scored by gradient times input, whose sign is a
    direction and which works behind any encoder. Everything is in the one file: no scripts, nothing loaded from elsewhere.
    All text is escaped, and the id is percent-encoded in the file's name.

    Args:
        model: any model that takes `inputs`; used in evaluation mode.
        inputs: one patient's, a batch of one, with up to 8 modalities.
        patient: the id, any text.
        folder: where to write; made if it is not there.
        risk: function from the output to one number per patient; by default as `model.output` says.
        curve: times and predicted survival, (t,) each: of a discrete model ``survival_function(logits, bins).at(times)[0]``,
            of a Cox model ``BreslowBaseline.fit(...).survival(log_hazard, times)[0]``.
        curve_steps: S stays as it is until the next time, as a Cox model's does, instead of a straight line in between.
        time_unit: of the curve.
        cohort_risks: risks of the patients to compare with.
        features: modality -> names of its (f,) features, for tables: their most important features are listed.
        maps: title -> picture: what a `plot_*` function returns, a matplotlib figure, or the bytes of a PNG.
        k: features listed per modality.

    Raises:
        ValueError: more than one patient; names that do not fit a modality; what `shapley_modalities` refuses; an empty id.
    """
    if batch_size(inputs) != 1:
        raise ValueError(f"expected the inputs of one patient, got {batch_size(inputs)}")
    shares = shapley_modalities(model, inputs, risk=risk)
    head = _facts(inputs, shares, cohort_risks)
    cards = []
    if curve is not None:
        times, survival = map(_array, curve)
        cards.append(_html.card("Predicted survival", _html.curve(times, survival, time_unit, curve_steps)))
    cards.append(_contributions(shares))
    for modality, names in (features or {}).items():
        cards.append(_features(model, inputs, modality, names, risk, k))
    for title, picture in (maps or {}).items():
        image = picture if isinstance(picture, bytes) else png(picture.figure.figure)
        cards.append(_html.card(title, _html.picture(image, title), wide=True))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"report_{_html.safe_name(patient)}.html"
    with atomic_path(path) as partial:
        partial.write_text(_html.page(patient, head, cards, _FOOT), encoding="utf-8")
    return path


def _facts(
    inputs: Mapping[str, Any], shares: ModalityShapley, cohort_risks: ArrayLike | Tensor | None
) -> str:
    risk = float(shares.risk[0])
    pairs = [("risk", f"{risk:.3f}")]
    if cohort_risks is not None:
        others = _array(cohort_risks)
        if others.ndim != 1 or not len(others):
            raise ValueError(f"expected cohort_risks of shape (n,), got {others.shape}")
        place = (others < risk).mean() + (others == risk).mean() / 2
        pairs.append(("higher than", f"{place:.0%} of {len(others)} patients"))
    has = [name for name, there in shares.has.items() if there[0]]
    pairs.append(("has", ", ".join(has) or "nothing"))
    lacks = [name for name in inputs if name not in has]
    return _html.facts([*pairs, ("lacks", ", ".join(lacks))] if lacks else pairs)


def _array(values: ArrayLike | Tensor) -> NDArray[np.float64]:
    """Numbers as they come out of a model too: with a gradient, on a GPU, in half precision."""
    plain = values.detach().cpu().double() if isinstance(values, Tensor) else values
    return np.asarray(plain, dtype=np.float64)


def _contributions(shares: ModalityShapley) -> str:
    values = {name: float(value[0]) if shares.has[name][0] else np.nan for name, value in shares.items()}
    notes = ["absent" if np.isnan(v) else f"{v:+.3f}" for v in values.values()]
    nothing, risk = float(shares.nothing[0]), float(shares.risk[0])
    note = (
        f"Shapley values: with nothing known the risk is {nothing:.3f}; what each modality adds leads to {risk:.3f}. "
        "Larger is worse."
    )
    bars = _html.bars(list(values), list(values.values()), notes)
    return _html.card("What each modality adds", bars, note)


def _features(
    model: nn.Module,
    inputs: Mapping[str, Any],
    modality: str,
    names: Sequence[str],
    risk: Risk | None,
    k: int,
) -> str:
    title = f"Features of {modality}"
    if modality in inputs and inputs[modality] is None:
        return _html.card(title, "", _LACKS)
    value = inputs[modality_names(inputs, [modality])[0]]
    numbers, real = values_of(value), real_elements(value)
    if numbers.shape != (1, len(names)):
        raise ValueError(
            f"modality {modality!r}: {len(names)} feature names do not fit an input of shape {tuple(numbers.shape)}"
        )
    if not bool(real.any()):
        return _html.card(title, "", _LACKS)
    scores = (
        gradient_x_input(model, inputs, modalities=[modality], risk=risk)[modality][0].cpu().double().numpy()
    )
    top = [i for i in np.argsort(-np.abs(scores), kind="stable") if real[0, i]][:k]
    table = _html.bars(
        [names[i] for i in top],
        scores[top],
        [f"{float(numbers[0, i]):.2f}" for i in top],
        heads=("feature", "lowers | raises", "value"),
    )
    note = "Gradient times value: what each value, as the model got it, adds to the risk, to first order."
    return _html.card(title, table, note)
