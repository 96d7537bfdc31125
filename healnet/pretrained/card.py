"""The README of a saved model, which the Hugging Face Hub shows: `card_of`, `model_card`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["card_of", "model_card"]

_MEANING = {
    "cox": "a risk per patient (log hazard): larger = worse",
    "discrete": "a risk per patient: larger = worse",
    "classes": "the most probable class, and a probability per class (`predict_proba`)",
    "value": "a number per patient",
}
_LIMITS = (
    "For research. Risks rank patients like those of training; another hospital, assay or unit may move them, so check "
    "the model on patients of your own before you read anything into it. It is not a medical device."
)


def card_of(config: Mapping[str, Any], own: Sequence[str]) -> str:
    """The card of a saved model.

    Args:
        config: Configuration of the folder.
        own: Names of the user's own classes of encoders.
    """
    scaler, features = config["scaler"], config["features"]
    reveals = []
    if scaler is not None:
        reveals.append("mean or median, and spread, of each feature, and how many patients have it")
        if scaler["method"] == "rank":
            reveals.append(
                '**every value of each feature, sorted**, without saying whose it is (`standardize="rank"`)'
            )
    if config["baselines"]:
        reveals.append("the times of their events")
    custom = [f"encoders=[{', '.join(own)}]"] if own else []
    return model_card(
        config["output"],
        {name: len(features[name]) if name in features else None for name in config["modalities"]},
        config["members"],
        config["version"],
        **config["card"],
        custom=["build=YOUR_FUNCTION"] if config["architecture"] is None else custom,
        told=reveals,
    )


def model_card(
    output: str,
    modalities: Mapping[str, int | None],
    members: int,
    version: str,
    *,
    data: str | None,
    metrics: Mapping[str, float],
    limits: str | None,
    custom: Sequence[str],
    told: Sequence[str],
) -> str:
    """Markdown with the Hub's metadata: what the model predicts, from what, how well, and its limits.

    Args:
        output: Declared output of the model.
        modalities: Number of features of each modality; None where it is not a table.
        members: Number of models whose predictions are averaged.
        version: Version of the library that saved it.
        data: Patients it was trained on, in the user's words.
        metrics: Name -> value.
        limits: Limits of use, in the user's words, beside the general ones.
        custom: Arguments that the user must pass to load the model, such as "encoders=[MyEncoder]".
        told: Statements of the files about the training patients, such as "mean and deviation of each feature".
    """
    inputs = [
        f"- `{k}`: " + ("any number of elements" if n is None else f"{n} features")
        for k, n in modalities.items()
    ]
    scores = [f"| {name} | {value:.4g} |" for name, value in metrics.items()]
    load = ", ".join(['"FOLDER"', *custom])
    lines = [
        "---",
        "library_name: healnet",
        "tags:\n- healnet\n- multimodal\n- survival-analysis"
        if output in ("cox", "discrete")
        else "tags:\n- healnet\n- multimodal",
        "---",
        "# HEALNet over " + ", ".join(modalities),
        f"Predicts {_MEANING[output]}. " + (f"The mean of {members} models." if members > 1 else ""),
        "## Data",
        data or "Not stated.",
        "## Inputs",
        "\n".join(inputs) + "\n\nAny of them may be missing, for any patient.",
        "## Metrics",
        "\n".join(["| metric | value |", "|---|---|", *scores]) if scores else "Not stated.",
        "## Limits",
        f"{limits}\n\n{_LIMITS}" if limits else _LIMITS,
        "## What the files reveal of the training patients",
        "\n".join(f"- {one}" for one in [*told, "whatever the weights have memorized"]),
        "## Use",
        f"```python\nfrom healnet.training import TrainedModel\n\n"
        f"model = TrainedModel.load({load})\n"
        "predictions = model.predict(table)  # by patient\n```",
        f"Saved by healnet {version}. Feature names, scaling and architecture are in `config.json`.",
    ]
    return "\n".join(lines[:4]) + "\n\n" + "\n\n".join(line.strip() for line in lines[4:]) + "\n"
