"""The deep models of a comparison: HEALNet and `healnet.baselines`, through one loop and with one budget of settings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from healnet import baselines
from healnet.data import Cohort
from healnet.encoders import ModalityEncoder, OmicEncoder, PatchEncoder
from healnet.survival import concordance
from healnet.training import Recipe, TrainedModel, build_model, fit_ensemble

Build = Callable[[Cohort, Recipe], nn.Module]


def encoders(
    cohort: Cohort, recipe: Recipe, tokens: str | int | Mapping[str, str | int]
) -> dict[str, ModalityEncoder]:
    """Encoders of a cohort's tables and slides; `tokens` as in `OmicEncoder`, one for all tables or by table."""
    found: dict[str, ModalityEncoder] = {}
    for name, width in cohort.widths.items():
        if name in cohort.tables:
            kind = tokens[name] if isinstance(tokens, Mapping) else tokens
            dropout = recipe.input_dropout if width > recipe.narrow else 0.0
            found[name] = OmicEncoder(width, kind, input_dropout=dropout)
        else:
            found[name] = PatchEncoder(width)
    return found


def mean_fusion(cohort: Cohort, recipe: Recipe) -> nn.Module:
    """One HEALNet per modality, their log hazards averaged, trained together."""
    singles = {name: build_model(cohort.select([name]), recipe) for name in cohort.modalities}
    return baselines.MeanFusion(singles, output="cox")


def self_normalizing(cohort: Cohort, recipe: Recipe) -> nn.Module:
    """Tables side by side; the few patients without one get zeros, the training mean."""
    return baselines.SelfNormalizingNetwork(encoders(cohort, recipe, "vector"), missing="zero", output="cox")


def attention_mil(cohort: Cohort, recipe: Recipe) -> nn.Module:
    """Slides alone; patients without any get one and the same risk."""
    return baselines.AttentionMIL(encoders(cohort, recipe, "vector"), output="cox")


def late_concat(cohort: Cohort, recipe: Recipe) -> nn.Module:
    """PORPOISE's embeddings side by side."""
    return baselines.LateConcat(encoders(cohort, recipe, "vector"), missing="zero", output="cox")


def late_kronecker(cohort: Cohort, recipe: Recipe) -> nn.Module:
    """PORPOISE's Kronecker product, of at most 8,192 entries."""
    rank = min(8, int(8192 ** (1 / len(cohort.modalities))) - 1)
    return baselines.LateKronecker(
        encoders(cohort, recipe, "vector"), rank=rank, missing="zero", output="cox"
    )


def early_fusion(cohort: Cohort, recipe: Recipe) -> nn.Module:
    """A Perceiver of HEALNet's sizes over the tokens of all modalities."""
    return baselines.EarlyFusion(
        encoders(cohort, recipe, recipe.tokens),
        depth=recipe.depth,
        num_latents=recipe.num_latents,
        latent_dim=recipe.latent_dim,
        num_heads=recipe.num_heads,
        self_attention=recipe.self_attention,
        output="cox",
    )


def multimodn(cohort: Cohort, recipe: Recipe) -> nn.Module:
    """Sequential updates of one state; trained on the last one, whatever modality dropout leaves."""
    return baselines.MultiModN(encoders(cohort, recipe, "vector"), output="cox")


def guided(model: type[nn.Module]) -> Build:
    """MCAT, MOTCat or SurvPath: the slides as the bag or, without any, the widest table's genes, a token each."""

    def build(cohort: Cohort, recipe: Recipe) -> nn.Module:
        slides = [name for name in cohort.modalities if name not in cohort.tables]
        bag = slides[0] if slides else max(cohort.tables, key=lambda name: cohort.widths[name])
        tokens = {name: "features" if name == bag else recipe.tokens for name in cohort.tables}
        return model(encoders(cohort, recipe, tokens), bag, dim=64, missing="zero", output="cox")

    return build


DEEP: dict[str, Build] = {
    "healnet": build_model,
    "mean late fusion": mean_fusion,
    "self-normalizing network": self_normalizing,
    "attention MIL": attention_mil,
    "late concatenation": late_concat,
    "late Kronecker": late_kronecker,
    "early fusion": early_fusion,
    "MultiModN": multimodn,
    "MCAT": guided(baselines.MCAT),
    "MOTCat": guided(baselines.MOTCat),
    "SurvPath": guided(baselines.SurvPath),
}


@dataclass(frozen=True)
class Deep:
    """A trained model with the modalities it takes."""

    model: TrainedModel
    modalities: list[str]

    def predict(self, cohort: Cohort) -> np.ndarray:
        """(n,) risks."""
        return self.model.predict(cohort.select(self.modalities)).to_numpy()

    def survival(self, cohort: Cohort, times: Sequence[float]) -> np.ndarray:
        """(n, t) probabilities of surviving beyond the times."""
        return self.model.survival(cohort.select(self.modalities), times).to_numpy()


def taken(name: str, cohort: Cohort) -> list[str]:
    """The modalities that a model takes: all, but for those of tables or slides alone."""
    if name == "self-normalizing network":
        return list(cohort.tables)
    if name == "attention MIL":
        return [modality for modality in cohort.modalities if modality not in cohort.tables]
    return list(cohort.modalities)


def fit_deep(name: str, seen: Cohort, recipe: Recipe, seed: int, budget: int) -> Deep:
    """Train an ensemble; with a budget of k > 1, its epochs are the best of 1, 2, 4, ... (k of them) times the recipe's.

    The best on a quarter of the training patients held out, of two members trained on the rest: the same for every model. A
    length with which a model diverges is passed over.
    """
    modalities = taken(name, seen)
    seen = seen.select(modalities)
    lengths = [replace(recipe, epochs=recipe.epochs * 2**step) for step in range(budget)]
    if budget > 1:
        inner, held = seen.holdout(0.25, seed=seed)
        scores = {}
        for length in lengths:
            tried = attempt(name, seen[inner], replace(length, members=2), seed)
            scores[length] = (
                0.0 if tried is None else concordance(tried.predict(seen[held]), seen[held].target)
            )
        lengths = sorted(lengths, key=lambda length: -scores[length])
    for length in lengths:
        ensemble = attempt(name, seen, length, seed)
        if ensemble is not None:
            return Deep(ensemble, modalities)
    raise ValueError(f"{name}: expected a length of training with which it does not diverge, got none")


def attempt(name: str, seen: Cohort, recipe: Recipe, seed: int) -> TrainedModel | None:
    """A trained ensemble, or None where its log hazards are beyond all bounds."""
    try:
        return fit_ensemble(seen, recipe, seed, build=DEEP[name])
    except ValueError as error:
        if "diverged" not in str(error):
            raise
        return None
