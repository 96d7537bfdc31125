"""What a model attended to: collected on request, reduced as it is made, never kept on modules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor

__all__ = ["AttentionTrace", "Keep", "TraceRecorder"]

Keep = Literal["none", "heads", "latents", "both"]


class TraceRecorder:
    """Collects attention weights while a model runs; fusion layers call `add`.

    Args:
        keep: which axes survive the mean: "none" gives (b, n), "heads" (b, h, n), "latents" (b, m, n) and "both"
            (b, h, m, n).

    Raises:
        ValueError: another `keep`.
    """

    def __init__(self, keep: Keep = "none") -> None:
        if keep not in ("none", "heads", "latents", "both"):
            raise ValueError(f"expected keep to be 'none', 'heads', 'latents' or 'both', got {keep!r}")
        self.keep: Keep = keep
        self._weights: dict[str, list[Tensor]] = {}

    def add(self, modality: str, weights: Tensor) -> None:
        """Record one layer's weights for one modality, already reduced as `keep` says; detached here."""
        self._weights.setdefault(modality, []).append(weights.detach())

    def trace(self) -> AttentionTrace:
        """What was recorded so far."""
        return AttentionTrace(
            {name: torch.stack(layers) for name, layers in self._weights.items()}, keep=self.keep
        )


class AttentionTrace(Mapping[str, Tensor]):
    """Attention weights keyed by modality: `trace["slide"]` is (layers, b, n), or with the kept axes before n.

    Each patient's weights sum to one over real tokens and are zero on masked ones; a patient without the modality has
    zeros. Detached from the graph. A modality that the whole batch lacked is not in the trace.

    Shape:
        keep="none": (layers, b, n); "heads": (layers, b, h, n); "latents": (layers, b, m, n); "both": (layers, b, h, m, n)
    """

    def __init__(self, weights: Mapping[str, Tensor], keep: Keep = "none") -> None:
        self._weights = dict(weights)
        self.keep: Keep = keep

    def __getitem__(self, modality: str) -> Tensor:
        try:
            return self._weights[modality]
        except KeyError:
            raise KeyError(
                f"no attention was recorded for modality {modality!r}; recorded: {sorted(self._weights)}"
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}: {tuple(w.shape)}" for name, w in self._weights.items())
        return f"AttentionTrace({shapes}; keep={self.keep!r})"
