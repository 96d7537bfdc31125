"""Attention weights of a model: collected on request, averaged while they are computed, never kept on modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from healnet.fusion.attention_stream import AttentionStream
from healnet.fusion.token_stream import TokenStream
from healnet.nn.attention_weights import Attended, Keep

__all__ = ["AttentionTrace", "Keep", "TraceRecorder"]


class TraceRecorder:
    """Collects attention weights while a model runs. Fusion layers call `record`, or `add` with weights of their own.

    Args:
        keep: Axes that survive the mean: "none" gives (b, n), "heads" (b, h, n), "latents" (b, m, n) and "both"
            (b, h, m, n).
        gradients: Whether to keep what `differentiate` needs.

    Raises:
        ValueError: Another `keep`.
    """

    def __init__(self, keep: Keep = "none", gradients: bool = False) -> None:
        if keep not in ("none", "heads", "latents", "both"):
            raise ValueError(f"expected keep to be 'none', 'heads', 'latents' or 'both', got {keep!r}")
        self.keep: Keep = keep
        self.gradients = gradients
        self._weights: dict[str, list[Tensor]] = {}
        self._streams: dict[str, AttentionStream] = {}
        self._order: dict[str, None] = {}  # of the modalities, as they are fused
        self._latents: dict[str, list[Tensor]] = {}
        self._attended: list[tuple[str, Attended]] = []
        self._differentiated: dict[str, list[Tensor]] = {}

    def add(self, modality: str, weights: Tensor) -> None:
        """Record one layer's weights for one modality, already reduced as `keep` says; detached here."""
        self._order[modality] = None
        self._weights.setdefault(modality, []).append(weights.detach())

    def record(self, modality: str, attended: Attended) -> None:
        """Record one layer's cross-attention to one modality."""
        self.add(modality, attended.weights(self.keep))
        if self.gradients:
            self._attended.append((modality, attended))

    def record_stream(
        self, tokens: TokenStream, attended: Sequence[Attended | None], dropout: bool = False
    ) -> None:
        """Record one layer's cross-attention to a streamed modality, per patient.

        Raises:
            ValueError: Gradients are wanted of an attention that dropped tokens: which ones is not kept.
        """
        if dropout and self.gradients:
            raise ValueError(
                f"modality {tokens.name!r}: expected a model in evaluation mode for gradients of the attention to a Stream, "
                "got attention dropout in training mode; call model.eval() before"
            )
        self._order[tokens.name] = None
        if tokens.name not in self._streams:
            self._streams[tokens.name] = AttentionStream(tokens, self.keep)
        self._streams[tokens.name].add(attended)

    def record_self_attention(self, modality: str, weights: Tensor, present: Tensor | None) -> None:
        """Record the self-attention (b, m, m) that followed a modality's update; the identity where it was not run."""
        if present is not None:
            same = torch.eye(weights.shape[-1], dtype=weights.dtype, device=weights.device)
            weights = torch.where(present[:, None, None], weights, same)
        self._latents.setdefault(modality, []).append(weights.detach())

    def differentiate(self, quantity: Tensor) -> None:
        """Weigh every recorded attention weight by the gradient of `quantity` (b,) with respect to it."""
        outputs = [attended.output for _, attended in self._attended]
        streamed = [output for stream in self._streams.values() for output in stream.outputs()]
        if not outputs and not streamed:
            return
        every = (*outputs, *streamed)
        found = torch.autograd.grad(quantity.sum(), every, allow_unused=True)
        slopes = iter([torch.zeros_like(x) if g is None else g for x, g in zip(every, found, strict=True)])
        for modality, attended in self._attended:
            self._differentiated.setdefault(modality, []).append(attended.weights(self.keep, next(slopes)))
        self._attended.clear()
        for stream in self._streams.values():
            stream.detach([next(slopes) for _ in stream.outputs()])

    def trace(self) -> AttentionTrace:
        """Return the trace recorded so far."""
        for stream in self._streams.values():
            stream.detach()
        return AttentionTrace(
            {name: torch.stack(layers) for name, layers in self._weights.items()},
            keep=self.keep,
            latents={name: torch.stack(blocks) for name, blocks in self._latents.items()},
            gradients={name: torch.stack(layers) for name, layers in self._differentiated.items()},
            streams=self._streams,
            order=self._order,
        )


class AttentionTrace(Mapping[str, Tensor]):
    """Attention weights keyed by modality: `trace["slide"]` is (layers, b, n), or with the kept axes before n.

    Each patient's weights sum to one over real tokens and are zero on masked ones; a patient without the modality has
    zeros. Detached from the graph. A modality that the whole batch lacked is not in the trace, and one that is a `Stream` is
    in `streams` instead.

    Attributes:
        keep: Axes that were kept.
        order: All modalities that were recorded, in the order of fusion.
        streams: Per modality that is a `Stream`, an `AttentionStream`, which makes its weights block by block.
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
        streams: Mapping[str, AttentionStream] | None = None,
        order: Iterable[str] | None = None,
    ) -> None:
        self._weights = dict(weights)
        self.keep: Keep = keep
        self.latents = dict(latents or {})
        self.gradients = dict(gradients or {})
        self.streams = dict(streams or {})
        self.order = tuple(self._weights) if order is None else tuple(order)

    def __getitem__(self, modality: str) -> Tensor:
        try:
            return self._weights[modality]
        except KeyError:
            if modality in self.streams:
                raise KeyError(
                    f"modality {modality!r} is a Stream, whose weights are made in blocks: "
                    f"trace.streams[{modality!r}].weights(patient)"
                ) from None
            raise KeyError(
                f"no attention was recorded for modality {modality!r}; recorded: {sorted(self._weights)}"
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

    def __repr__(self) -> str:
        shapes = ", ".join(
            f"{name}: {tuple(self[name].shape) if name in self else self.streams[name]}"
            for name in self.order
        )
        return f"AttentionTrace({shapes}; keep={self.keep!r})"
