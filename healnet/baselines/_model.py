"""Base of all baselines: encoders, checks, and the treatment of absent modalities."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from healnet.encoders import ModalityEncoder, encode, encoder_dict
from healnet.fusion import Output, check_output
from healnet.tokens import Tokens

__all__ = ["Baseline", "Missing", "presence", "real_mask", "real_values"]

Missing = Literal["refuse", "zero"]


class Baseline(nn.Module, ABC):
    """Base class: encode the modalities as `HEALNet` does, then `predict` from their tokens.

    Args:
        encoders: `ModalityEncoder` of each modality.
        out_dim: Width of the output.
        output: Meaning of the raw output, as in `HEALNet`.
        missing: Treatment of a patient who lacks a modality that the design needs: "refuse" raises, "zero" puts
            zeros where its embedding would be.
        sizes: Other sizes that must be at least 1, by name.

    Raises:
        ValueError: A size below 1; an unknown `output` or `missing`.
    """

    design: ClassVar[str]  # how a message names it

    def __init__(
        self,
        encoders: Mapping[str, ModalityEncoder],
        *,
        out_dim: int,
        output: Output | None,
        missing: Missing = "refuse",
        sizes: Mapping[str, int],
    ) -> None:
        super().__init__()
        for name, size in {"out_dim": out_dim, **sizes}.items():
            if size < 1:
                raise ValueError(f"expected {name} of at least 1, got {size}")
        if missing not in ("refuse", "zero"):
            raise ValueError(f"expected missing 'refuse' or 'zero', got {missing!r}")
        check_output(output, out_dim)
        self.output = output
        self.missing = missing
        self.encoders = encoder_dict(encoders)

    def forward(self, inputs: Mapping[str, Any]) -> Tensor:
        """Predict from a batch of inputs, as `HEALNet` takes them: (b, out_dim)."""
        return self.predict(*self.encode(inputs))

    def encode(self, inputs: Mapping[str, Any]) -> tuple[dict[str, Tokens], int]:
        """Encode the modalities that are there; returns their tokens and the number of patients."""
        tokens = encode(self.encoders, inputs)
        # Without any modality the number of patients cannot be known: one patient, who has nothing.
        return tokens, len(next(iter(tokens.values())).values) if tokens else 1

    @abstractmethod
    def predict(self, tokens: Mapping[str, Tokens], batch: int) -> Tensor:
        """Predict from the tokens of the modalities that are there.

        Shape:
            tokens: (b, n, c) per modality; those that the whole batch lacks are left out.
            returns: (b, out_dim)
        """

    def require(self, names: Iterable[str], tokens: Mapping[str, Tokens], batch: int) -> None:
        """Refuse patients without one of these modalities, unless `missing` is "zero"."""
        if self.missing == "zero":
            return
        for name in names:
            present = tokens[name].present if name in tokens else torch.zeros(batch, dtype=torch.bool)
            if present is not None and not bool(present.all()):
                raise ValueError(
                    f"modality {name!r}: expected every patient to have it, got {int((~present).sum())} of {batch} "
                    f"without; {self.design} cannot miss a modality (missing='zero' puts zeros in its place)"
                )


def presence(tokens: Mapping[str, Tokens], names: Iterable[str], like: Tensor) -> Tensor:
    """Presence of each modality: (b, j) bool, for j names and the b patients (first axis) of `like`, on its device."""
    all_patients = torch.ones(len(like), dtype=torch.bool, device=like.device)
    columns = []
    for name in names:
        present = tokens[name].present if name in tokens else ~all_patients
        columns.append(all_patients if present is None else present)
    return torch.stack(columns, dim=1)


def real_mask(tokens: Tokens) -> Tensor:
    """(b, n) bool, True = real."""
    if tokens.mask is not None:
        return tokens.mask
    return torch.ones(tokens.values.shape[:2], dtype=torch.bool, device=tokens.values.device)


def real_values(tokens: Tokens, dtype: torch.dtype) -> Tensor:
    """The tokens' values (b, n, c) with zeros where nothing is real: what is masked may hold NaN."""
    values = tokens.values
    if tokens.mask is not None:
        values = values.masked_fill(~tokens.mask.unsqueeze(-1), 0)
    return values.to(dtype)
