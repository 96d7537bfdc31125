"""Settings of a model and its training: `Recipe`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Recipe"]


@dataclass(frozen=True)
class Recipe:
    """Settings of a model and its training, with defaults for cohorts of about a hundred patients.

    Chosen by cross-validation inside the training folds of mini-ACC: small cohorts want few steps, strong dropout and an
    average over seeds; sizes hardly matter.

    Attributes:
        members: Number of models that differ by their seed; their risks are averaged.
        epochs: Passes over the cohort.
        batch_size: Patients per step; None for the whole cohort, so that Cox's risk sets are whole and an epoch is a step.
        learning_rate: Largest learning rate of AdamW; it rises and falls over the steps (one cycle).
        weight_decay: Weight decay of AdamW.
        modality_dropout: Probability of hiding each modality of a patient in training.
        input_dropout: Dropout of the features of tables with more than `narrow` features.
        narrow: Number of features up to which a table keeps all of them; 0 drops features of every table. Keeping clinical
            tables whole (16) moved Harrell's C by 0.008 on mini-ACC (10 folds), and by -0.009, 0.001, 0.000, -0.016, 0.011
            and 0.026 on TCGA-PAAD, BLCA, LIHC, STAD, SKCM and COADREAD (5 folds each): in no steady direction.
        tokens: Learned tokens per table.
        feature_tokens: Tables in which every feature is a token of its own instead, so that attention ranks features.
        depth: Number of fusion layers.
        num_latents: Latents per patient.
        latent_dim: Width of a latent.
        num_heads: Attention heads.
        self_attention: Self-attention blocks after each modality.
        ff_mult: Hidden width of a feed-forward over `latent_dim`.
        max_patches: Patches drawn of each patient's slides whenever a training batch is read; None for all.
        strata: Name of the cohort's label, such as the cancer or the center, within which alone Cox's loss compares
            patients; None compares all.
        horizon: Time after which follow-up counts as censored in training (`SurvivalTarget.censored_at`), in the unit of the
            cohort's times; None for no end. Tables of the diagnosis say little about deaths many years later.
        standardize: Method of `Standardizer`: "mean", "median" or "rank", which suits the long tails of RNA-seq.
        clip: Limit of the standardized values on both sides; None for no limit.
    """

    members: int = 4
    epochs: int = 15
    batch_size: int | None = None
    learning_rate: float = 1e-3
    weight_decay: float = 0.3
    modality_dropout: float = 0.3
    input_dropout: float = 0.5
    narrow: int = 0
    tokens: int = 4
    feature_tokens: tuple[str, ...] = ()
    depth: int = 2
    num_latents: int = 8
    latent_dim: int = 32
    num_heads: int = 1
    self_attention: int = 0
    ff_mult: int = 1
    max_patches: int | None = None
    strata: str | None = None
    horizon: float | None = None
    standardize: Literal["mean", "median", "rank"] = "mean"
    clip: float | None = None

    def __post_init__(self) -> None:
        for name in ("members", "epochs"):
            size = getattr(self, name)
            if size < 1:
                raise ValueError(f"expected {name} of at least 1, got {size}")
        if self.batch_size is not None and self.batch_size < 2:
            raise ValueError(
                f"expected batch_size of at least 2, got {self.batch_size}: Cox's loss compares the patients of a batch"
            )
        names: object = self.feature_tokens
        if isinstance(names, str):  # in which every part of the word would be a name
            raise ValueError(f"expected feature_tokens as a tuple of names, got {names!r}")
