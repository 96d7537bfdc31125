"""Attention weights of a model: collected on request, averaged while they are computed, never kept on modules."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from healnet.fusion.token_stream import TokenStream
from healnet.nn.attention_weights import Attended, Keep
from healnet.streams import Block

__all__ = ["AttentionTrace", "Keep", "Sink", "TraceRecorder"]

# Takes the weights of one block of a streamed modality: modality, layer, patient, block, weights (n,) or with kept axes.
Sink = Callable[[str, int, int, Block, Tensor], None]


class TraceRecorder:
    """Collects attention weights while a model runs. Fusion layers call `record`, or `add` with weights of their own.

    Args:
        keep: Axes that survive the mean: "none" gives (b, n), "heads" (b, h, n), "latents" (b, m, n) and "both"
            (b, h, m, n).
        gradients: Whether to keep what `differentiate` needs.
        sink: Function that takes the weights of streamed modalities block by block; they are not in the trace.

    Raises:
        ValueError: another `keep`.
    """

    def __init__(self, keep: Keep = "none", gradients: bool = False, sink: Sink | None = None) -> None:
        if keep not in ("none", "heads", "latents", "both"):
            raise ValueError(f"expected keep to be 'none', 'heads', 'latents' or 'both', got {keep!r}")
        self.keep: Keep = keep
        self.gradients = gradients
        self.sink = sink
        self._streamed: Counter[str] = Counter()
        self._weights: dict[str, list[Tensor]] = {}
        self._latents: dict[str, list[Tensor]] = {}
        self._attended: list[tuple[str, Attended]] = []
        self._differentiated: dict[str, list[Tensor]] = {}

    def add(self, modality: str, weights: Tensor) -> None:
        """Record one layer's weights for one modality, already reduced as `keep` says; detached here."""
        self._weights.setdefault(modality, []).append(weights.detach())

    def record(self, modality: str, attended: Attended) -> None:
        """Record one layer's cross-attention to one modality."""
        self.add(modality, attended.weights(self.keep))
        if self.gradients:
            self._attended.append((modality, attended))

    def record_stream(self, tokens: TokenStream, attended: Sequence[Attended | None]) -> None:
        """Hand one layer's cross-attention to a streamed modality to the sink, in one more pass over the pieces.

        Raises:
            ValueError: there is no sink, or gradients are wanted.
        """
        if self.sink is None or self.gradients:
            raise ValueError(
                f"modality {tokens.name!r}: expected a sink for the attention to a Stream, which is made in pieces, "
                f"got {'gradient_of' if self.gradients else 'none'}; pass sink=function to trace"
            )
        layer = self._streamed[tokens.name]
        self._streamed[tokens.name] += 1
        for patient, one in enumerate(attended):
            if one is None:
                continue
            total = tokens.elements(patient)
            with torch.no_grad():
                for block, piece in tokens.blocks(patient):
                    values = piece.standardized(one.queries.dtype)
                    # A token's weight is about 1 / total: raised to 1 / n of its block, so that its mean keeps all digits.
                    share = max(values.shape[1], 1) / total
                    part = replace(
                        one, keys=values, values=values, mask=piece.mask, lse=one.lse + math.log(share)
                    )
                    self.sink(tokens.name, layer, patient, block, part.weights(self.keep)[0] * share)

    def record_self_attention(self, modality: str, weights: Tensor, present: Tensor | None) -> None:
        """Record the self-attention (b, m, m) that followed a modality's update; the identity where it was not run."""
        if present is not None:
            same = torch.eye(weights.shape[-1], dtype=weights.dtype, device=weights.device)
            weights = torch.where(present[:, None, None], weights, same)
        self._latents.setdefault(modality, []).append(weights.detach())

    def differentiate(self, quantity: Tensor) -> None:
        """Weigh every recorded attention weight by the gradient of `quantity` (b,) with respect to it."""
        outputs = [attended.output for _, attended in self._attended]
        if not outputs:
            return
        slopes = torch.autograd.grad(quantity.sum(), outputs, allow_unused=True)
        for (modality, attended), slope in zip(self._attended, slopes, strict=True):
            slope = torch.zeros_like(attended.output) if slope is None else slope
            self._differentiated.setdefault(modality, []).append(attended.weights(self.keep, slope))
        self._attended.clear()

    def trace(self) -> AttentionTrace:
        """Return the trace recorded so far."""
        return AttentionTrace(
            {name: torch.stack(layers) for name, layers in self._weights.items()},
            keep=self.keep,
            latents={name: torch.stack(blocks) for name, blocks in self._latents.items()},
            gradients={name: torch.stack(layers) for name, layers in self._differentiated.items()},
        )


class AttentionTrace(Mapping[str, Tensor]):
    """Attention weights keyed by modality: `trace["slide"]` is (layers, b, n), or with the kept axes before n.

    Each patient's weights sum to one over real tokens and are zero on masked ones; a patient without the modality has
    zeros. Detached from the graph. A modality that the whole batch lacked is not in the trace.

    Attributes:
        keep: Axes that were kept.
        latents: Per modality, the self-attention among latents that followed its updates, mean over heads, rows summing to
            one: (layers * blocks, b, m, m). The identity for patients without the modality.
        gradients: Per modality, each weight times the gradient of the quantity `gradient_of` with respect to it, averaged
            like the weights; empty unless `gradient_of` was given.

    Shape:
        keep="none": (layers, b, n); "heads": (layers, b, h, n); "latents": (layers, b, m, n); "both": (layers, b, h, m, n)
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        keep: Keep = "none",
        latents: Mapping[str, Tensor] | None = None,
        gradients: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._weights = dict(weights)
        self.keep: Keep = keep
        self.latents = dict(latents or {})
        self.gradients = dict(gradients or {})

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
