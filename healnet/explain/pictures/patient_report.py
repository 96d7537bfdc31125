"""One HTML file about one patient: curve, modality contributions, maps, genes. Opens offline, on a desk or a phone."""

from __future__ import annotations

import datetime
import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from healnet._evaluation import evaluating
from healnet._files import atomic_path
from healnet._plotting import narrow_png
from healnet._png import png
from healnet.explain._checks import modality_names, numbers
from healnet.explain.gradients import gradient_x_input
from healnet.explain.occlusion import occlude_modalities
from healnet.explain.pictures import _html
from healnet.explain.risk import Risk, quantity_name, resolve_risk, risk_of
from healnet.explain.shapley import MOST_PLAYERS, shapley_modalities
from healnet.inputs import Graph, PatchBag, batch_size, present, real_elements, values_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from healnet._plotting import Panels

__all__ = ["PatientReport", "patient_report"]

_FOOT = (
    "For research. These figures say what the model computed, not what is true of the patient: a contribution is about this "
    "model and its training data, and attention is not by itself an explanation."
)
_LACKS = "The patient lacks this modality."


@dataclass(frozen=True)
class PatientReport:
    """A written report; a notebook shows it when it is the last expression of a cell.

    Attributes:
        path: Path of the file.
        html: Text of the file.
    """

    path: Path
    html: str = field(repr=False)

    def _repr_html_(self) -> str:
        # In a frame of its own, so that its style stays inside; sandboxed, because nothing in it needs to run.
        text = html.escape(self.html, quote=True)
        return f'<iframe srcdoc="{text}" sandbox width="100%" height="720" style="border: 0"></iframe>'


def patient_report(
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
    features: Mapping[str, Iterable[str] | Mapping[str, float] | pd.Series] | None = None,
    units: Mapping[str, str | Mapping[str, str]] | None = None,
    maps: Mapping[str, Figure | Axes | Panels | bytes] | None = None,
    details: Mapping[str, str] | None = None,
    date: str | None = None,
    k: int = 12,
) -> PatientReport:
    """Write ``report_<patient>.html`` about one patient.

    Contributions are Shapley values over the modalities; of a patient who has more than 8, the change of the risk without
    each. Genes are scored by gradient times input, whose sign is a direction and which works behind any encoder. Everything
    is in the one file: no scripts, nothing loaded from elsewhere. All text is escaped, and the id is percent-encoded in the
    file's name.

    Args:
        model: Model that takes `inputs`; used in evaluation mode.
        inputs: Inputs of one patient, a batch of one.
        patient: The id, any text.
        folder: Folder to write into; made if it is not there.
        risk: Function from the output to one number per patient; by default as `model.output` says.
        curve: Times and predicted survival, (t,) each: of a discrete model ``survival_function(logits, bins).at(times)[0]``,
            of a Cox model ``BreslowBaseline.fit(...).survival(log_hazard, times)[0]``.
        curve_steps: Whether S stays as it is until the next time, as a Cox model's does; otherwise lines lead there.
        time_unit: Unit of the curve's times.
        cohort_risks: Risks of the patients to compare with.
        features: modality -> names of its (f,) features, for tables, or their values by name (a dict or a row of the table)
            before they were scaled, in the order of the model's columns: the most important features are listed, with these
            values.
        units: modality -> unit of these values, one for all features or one for each by name.
        maps: title -> picture: what a `plot_*` function returns, a matplotlib figure, or the bytes of a PNG. All but bytes
            are laid out a second time for the width of a phone.
        details: Further facts to state, such as ``{"encoder": file.encoder, "slide": file.slide}``.
        date: Date of the report; today's by default.
        k: Number of features listed per modality.

    Raises:
        ValueError: More than one patient; names that do not fit a modality; a table instead of a row; an output that is
            neither declared nor read by `risk`; an empty id.
    """
    if batch_size(inputs) != 1:
        raise ValueError(f"expected the inputs of one patient, got {batch_size(inputs)}")
    quantity = quantity_name(model, risk)
    with evaluating(model):
        whole = float(risk_of(model, inputs, resolve_risk(model, inputs, risk))[0])
    has = [name for name in modality_names(inputs) if present(inputs[name])[0]]
    facts = _facts(model, inputs, has, whole, quantity, cohort_risks)
    facts += [*(details or {}).items(), ("date", datetime.date.today().isoformat() if date is None else date)]
    cards = []
    if curve is not None:
        times, survival = map(numbers, curve)
        cards.append(_html.card("Predicted survival", _html.curve(times, survival, time_unit, curve_steps)))
    cards.append(_contributions(model, inputs, has, quantity, risk))
    for modality, names in (features or {}).items():
        cards.append(
            _features(model, inputs, modality, names, (units or {}).get(modality, ""), quantity, risk, k)
        )
    for title, picture in (maps or {}).items():
        cards.append(_html.card(title, _picture(picture, title), wide=True))
    text = _html.page(patient, _html.facts(facts), cards, _FOOT)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"report_{_html.safe_name(patient)}.html"
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return PatientReport(path, text)


def _picture(picture: Figure | Axes | Panels | bytes, title: str) -> str:
    if isinstance(picture, bytes):
        return _html.picture(picture, title)
    figure = picture.figure.figure
    return _html.picture(png(figure), title, narrow_png(figure))


def _facts(
    model: nn.Module,
    inputs: Mapping[str, Any],
    has: Sequence[str],
    risk: float,
    quantity: str,
    cohort_risks: ArrayLike | Tensor | None,
) -> list[tuple[str, str]]:
    pairs = [(quantity, f"{risk:.3f}")]
    if quantity == quantity_name(model, None) and getattr(model, "output", None) == "classes":
        with evaluating(model), torch.no_grad():
            pairs.append(("predicted class", str(int(model(inputs).argmax()))))
    if cohort_risks is not None:
        others = numbers(cohort_risks)
        if others.ndim != 1 or not len(others):
            raise ValueError(f"expected cohort_risks of shape (n,), got {others.shape}")
        place = (others < risk).mean() + (others == risk).mean() / 2
        pairs.append(("higher than", f"{place:.0%} of {len(others)} patients"))
    pairs.append(("has", ", ".join(has) or "nothing"))
    lacks = [name for name in inputs if name not in has]
    if lacks:
        pairs.append(("lacks", ", ".join(lacks)))
    for name in has:
        for kind, parts in ((PatchBag, "patches"), (Graph, "nodes")):
            if isinstance(inputs[name], kind):
                pairs.append((f"{parts} of {name}", f"{int(real_elements(inputs[name]).sum()):,}"))
    return pairs


def _contributions(
    model: nn.Module, inputs: Mapping[str, Any], has: Sequence[str], quantity: str, risk: Risk | None
) -> str:
    shares: Mapping[str, Tensor]
    if len(has) <= MOST_PLAYERS:
        shares = shapley = shapley_modalities(model, inputs, risk=risk)
        note = (
            f"Shapley values: from a {quantity} of {float(shapley.nothing[0]):.3f} with nothing known, what each modality "
            f"adds leads to {float(shapley.risk[0]):.3f}."
        )
    else:
        shares = occlude_modalities(model, inputs, risk=risk)
        note = (
            f"The {quantity} with everything less that without the modality. They do not add up to it: what several "
            f"modalities say counts for none of them, and Shapley values are computed for up to {MOST_PLAYERS} modalities."
        )
    values = {name: float(value[0]) if name in has else np.nan for name, value in shares.items()}
    notes = ["absent" if np.isnan(v) else f"{v:+.3f}" for v in values.values()]
    if quantity in ("log hazard", "risk score", "risk"):
        note += " Larger is worse."
    bars = _html.bars(list(values), list(values.values()), notes)
    return _html.card(f"What each modality adds to the {quantity}", bars, note)


def _features(
    model: nn.Module,
    inputs: Mapping[str, Any],
    modality: str,
    features: Iterable[str] | Mapping[str, float] | pd.Series,
    units: str | Mapping[str, str],
    quantity: str,
    risk: Risk | None,
    k: int,
) -> str:
    title = f"Features of {modality}"
    if modality in inputs and inputs[modality] is None:
        return _html.card(title, "", _LACKS)
    value = inputs[modality_names(inputs, [modality])[0]]
    values, real = values_of(value), real_elements(value)
    raw = dict(features.items()) if hasattr(features, "items") else None
    names = [str(name) for name in (features if raw is None else raw)]
    if raw is not None and any(np.ndim(v) for v in raw.values()):
        raise ValueError(
            f"modality {modality!r}: expected one number for each feature, got a table: pass one row of it"
        )
    if values.shape != (1, len(names)):
        raise ValueError(
            f"modality {modality!r}: expected names of the features of an input {tuple(values.shape)}, got {len(names)}"
        )
    if not bool(real.any()):
        return _html.card(title, "", _LACKS)
    scores = numbers(gradient_x_input(model, inputs, modalities=[modality], risk=risk)[modality][0])
    shown = values[0].tolist() if raw is None else list(raw.values())
    top = [i for i in np.argsort(-np.abs(scores), kind="stable") if real[0, i]][:k]
    unit = [units if isinstance(units, str) else units.get(name, "") for name in names]
    table = _html.bars(
        [names[i] for i in top],
        scores[top],
        [f"{_written(float(shown[i]))} {unit[i]}".strip() for i in top],
        heads=("feature", "lowers | raises", "value"),
    )
    note = (
        "Gradient times the value as the model got it: to first order, what it adds to the "
        f"{quantity} against a 0 in its place."
    )
    note += " Values as the model got them." if raw is None else " The values shown are those before scaling."
    return _html.card(title, table, note)


def _written(value: float) -> str:
    """Four digits, and all of those before the point."""
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"
