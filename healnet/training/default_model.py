"""The model that a cohort gets by default: `build_model`."""

from __future__ import annotations

from typing import Literal

from healnet.data import Cohort
from healnet.encoders import ModalityEncoder, OmicEncoder, PatchEncoder
from healnet.fusion import HEALNet
from healnet.training.recipe import Recipe

__all__ = ["build_model"]


def build_model(cohort: Cohort, recipe: Recipe) -> HEALNet:
    """Learned tokens per table, raw patches of slides, and few latents.

    Raises:
        ValueError: A modality that is neither a table nor slides: it needs an encoder of your choice; a name in
            `feature_tokens` that is no table's.
    """
    unknown = [name for name in recipe.feature_tokens if name not in cohort.tables]
    if unknown:
        raise ValueError(f"expected feature_tokens of the tables {list(cohort.tables)}, got {unknown[0]!r}")
    encoders: dict[str, ModalityEncoder] = {}
    for name in cohort.modalities:
        if name not in cohort.widths:
            raise ValueError(
                f"modality {name!r}: expected a table or slides; for others pass `build` to fit_ensemble"
            )
        width = cohort.widths[name]
        if name in cohort.tables:
            tokens: Literal["features"] | int = "features" if name in recipe.feature_tokens else recipe.tokens
            dropout = recipe.input_dropout if width > recipe.narrow else 0.0
            encoders[name] = OmicEncoder(width, tokens, input_dropout=dropout)
        else:
            encoders[name] = PatchEncoder(width)
    return HEALNet(
        encoders,
        output="cox",
        depth=recipe.depth,
        num_latents=recipe.num_latents,
        latent_dim=recipe.latent_dim,
        num_heads=recipe.num_heads,
        self_attention=recipe.self_attention,
        ff_mult=recipe.ff_mult,
    )
