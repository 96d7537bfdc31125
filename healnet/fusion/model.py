"""HEALNet: encoders, a shared latent array, fusion layers and a head."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, get_args

import torch
from einops import repeat
from torch import Tensor, nn

from healnet.encoders.base import ModalityEncoder
from healnet.fusion.hybrid import HybridFusionLayer
from healnet.fusion.layer import FusionLayer
from healnet.fusion.trace import AttentionTrace, Keep, TraceRecorder
from healnet.tokens import Tokens

__all__ = ["HEALNet", "MeanHead", "Output"]

Output = Literal["cox", "discrete", "classes", "value"]


class MeanHead(nn.Module):
    """Mean over latents, LayerNorm, Linear: (b, m, d) -> (b, out_dim)."""

    def __init__(self, latent_dim: int, out_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(latent_dim)
        self.linear = nn.Linear(latent_dim, out_dim)

    def forward(self, latents: Tensor) -> Tensor:
        """Read the latents out."""
        return self.linear(self.norm(latents.mean(dim=1)))


class HEALNet(nn.Module):
    """Hybrid Early-fusion Attention Learning Network (Hemker, Simidjievski, Jamnik, NeurIPS 2024, arXiv 2311.09115).

    One small latent array per patient is updated, modality by modality and layer by layer, by cross-attention to the raw
    tokens of each modality. Missing modalities are skipped, per patient.

    Args:
        encoders: a `ModalityEncoder` per modality; their order is the order of fusion.
        out_dim: width of the output: time bins for a discrete survival loss, 1 for Cox.
        depth: number of fusion layers.
        num_latents: latents m.
        latent_dim: width d of a latent.
        num_heads: attention heads h.
        head_dim: width of a head.
        self_attention: self-attention blocks after each modality's update; 0 for none.
        tie_layers: one set of weights for all layers.
        attention_dropout: dropout of attention; in cross-attention it drops whole tokens.
        ff_dropout: dropout at the end of each feed-forward.
        ff_mult: hidden width of a feed-forward over `latent_dim`.
        gate: gate of the feed-forwards, "selu" or "gelu".
        temperature: divides attention scores before the softmax.
        layers: your own fusion layers instead (the sizes above then only shape latents and head).
        head: any module (b, m, d) -> output instead of `MeanHead`.
        output: meaning of the raw output, kept as the attribute `output` for what reads it, such as `healnet.explain`:
            "cox" (a log hazard), "discrete" (logits of the hazard in each time bin), "classes" (logits of classes) or
            "value" (one number). None leaves it undeclared.

    Shape:
        inputs: whatever each encoder takes, with b patients first; a modality left out or None is absent for the whole batch
        returns: (b, out_dim)

    Raises:
        ValueError: a size below 1; an unknown `output`, or one that `out_dim` cannot hold; an unknown modality; an input its
            encoder refuses; modalities of different batch sizes. Each names the size or modality, what came and what was
            expected.

    Example:
        >>> from healnet.encoders import OmicEncoder
        >>> from healnet.inputs import Masked
        >>> model = HEALNet({"rna": OmicEncoder(50, tokens=4), "protein": OmicEncoder(20, tokens=4)}, out_dim=4)
        >>> lacks_protein = Masked(torch.randn(3, 20), torch.tensor([True, False, True]))
        >>> model({"rna": torch.randn(3, 50), "protein": lacks_protein}).shape
        torch.Size([3, 4])
    """

    def __init__(
        self,
        encoders: Mapping[str, ModalityEncoder],
        *,
        out_dim: int = 1,
        depth: int = 2,
        num_latents: int = 32,
        latent_dim: int = 64,
        num_heads: int = 4,
        head_dim: int = 32,
        self_attention: int = 1,
        tie_layers: bool = False,
        attention_dropout: float = 0.0,
        ff_dropout: float = 0.0,
        ff_mult: int = 4,
        gate: Literal["selu", "gelu"] = "selu",
        temperature: float = 1.0,
        layers: Iterable[FusionLayer] | None = None,
        head: nn.Module | None = None,
        output: Output | None = None,
    ) -> None:
        super().__init__()
        if not encoders:
            raise ValueError("expected at least one encoder, got none")
        sizes = {
            "out_dim": out_dim,
            "depth": depth,
            "num_latents": num_latents,
            "latent_dim": latent_dim,
            "num_heads": num_heads,
            "head_dim": head_dim,
            "ff_mult": ff_mult,
        }
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"expected {name} of at least 1, got {size}")
        if output is not None:
            _check_output(output, None if head is not None else out_dim)
        self.output = output
        self.encoders = nn.ModuleDict()
        for name, encoder in encoders.items():
            if not isinstance(encoder, ModalityEncoder):
                raise ValueError(
                    f"modality {name!r}: expected a ModalityEncoder, got {type(encoder).__name__}"
                )
            if not name or "." in name or hasattr(nn.ModuleDict(), name):
                raise ValueError(
                    f"modality {name!r}: expected a name without dots that is not a method of ModuleDict"
                )
            self.encoders[name] = encoder
        self.latents = nn.Parameter(torch.randn(num_latents, latent_dim))
        if layers is None:
            token_dims = {name: encoder.token_dim for name, encoder in encoders.items()}

            def layer() -> FusionLayer:
                return HybridFusionLayer(
                    latent_dim,
                    token_dims,
                    num_heads=num_heads,
                    head_dim=head_dim,
                    self_attention=self_attention,
                    attention_dropout=attention_dropout,
                    ff_dropout=ff_dropout,
                    ff_mult=ff_mult,
                    gate=gate,
                    temperature=temperature,
                )

            layers = [layer()] * depth if tie_layers else [layer() for _ in range(depth)]
        self.layers = nn.ModuleList(layers)
        self.head = MeanHead(latent_dim, out_dim) if head is None else head

    @classmethod
    def from_original(cls, state_dict: Mapping[str, Tensor], **arguments: Any) -> HEALNet:
        """A model with the weights of a checkpoint of the authors' release; it gives the same logits and latents.

        Args:
            state_dict: of the release's `HealNet`.
            **arguments: those of the release's constructor (n_modalities, channel_dims, num_spatial_axes, out_dims, ...);
                see `healnet.fusion.original.load_original`.

        Returns:
            A model whose modalities are named "0", "1", ... and take tensors of shape (b, *axes, channels).

        Raises:
            ValueError: an option that cannot be expressed, or weights that do not fit the arguments; by name.
        """
        from healnet.fusion.original import load_original  # here, because it builds a HEALNet

        return load_original(state_dict, **arguments)

    def forward(self, inputs: Mapping[str, Any]) -> Tensor:
        """The head's reading of the fused latents."""
        output: Tensor = self.head(self.fuse(inputs))
        return output

    def fuse(self, inputs: Mapping[str, Any]) -> Tensor:
        """The latents after all fusion layers, before the head: (b, m, d)."""
        return self._fuse(inputs, None)

    def trace(
        self,
        inputs: Mapping[str, Any],
        keep: Keep = "none",
        gradient_of: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, AttentionTrace]:
        """The output, and where each layer looked, in one pass.

        Args:
            inputs: as for `forward`.
            keep: which axes of the weights survive the mean over heads and latents: "none", "heads", "latents", "both".
            gradient_of: a quantity of the output, one number per patient, such as the risk; `trace.gradients` then holds
                each attention weight times the gradient of that quantity with respect to it, reduced in the same way.

        Returns:
            What `forward` returns, and an `AttentionTrace`: `trace["slide"]` is (layers, b, n), each patient's weights
            summing to one over real tokens. The trace holds no graph.
        """
        recorder = TraceRecorder(keep, gradients=gradient_of is not None)
        if gradient_of is None:
            return self.head(self._fuse(inputs, recorder)), recorder.trace()
        with torch.inference_mode(False), torch.enable_grad():
            output: Tensor = self.head(self._fuse(inputs, recorder))
            recorder.differentiate(gradient_of(output))
        return output.detach(), recorder.trace()

    def encode(self, inputs: Mapping[str, Any]) -> dict[str, Tokens]:
        """The tokens of every modality that is there, in the order of fusion."""
        if not isinstance(inputs, Mapping):
            raise ValueError(f"expected a mapping from modality to input, got {type(inputs).__name__}")
        unknown = [name for name in inputs if name not in self.encoders]
        if unknown:
            raise ValueError(
                f"unknown modality {unknown[0]!r}: this model's modalities are {list(self.encoders)}"
            )
        tokens: dict[str, Tokens] = {}
        for name, encoder in self.encoders.items():
            if inputs.get(name) is None:
                continue
            try:
                tokens[name] = encoder(inputs[name])
            except ValueError as error:
                raise ValueError(f"modality {name!r}: {error}") from error
            self._check(name, tokens)
        return tokens

    def _check(self, name: str, tokens: Mapping[str, Tokens]) -> None:
        encoded = tokens[name]
        if not isinstance(encoded, Tokens):
            raise ValueError(
                f"modality {name!r}: expected its encoder to return Tokens, got {type(encoded).__name__}"
            )
        width = self.encoders[name].token_dim
        if encoded.values.shape[2] != width:
            raise ValueError(
                f"modality {name!r}: expected tokens of width {width} (its encoder's token_dim), "
                f"got {encoded.values.shape[2]}"
            )
        first = next(iter(tokens))
        if len(encoded.values) != len(tokens[first].values):
            raise ValueError(
                f"modality {name!r}: expected a batch of {len(tokens[first].values)} patients as in modality {first!r}, "
                f"got {len(encoded.values)}"
            )

    def _fuse(self, inputs: Mapping[str, Any], recorder: TraceRecorder | None) -> Tensor:
        tokens = self.encode(inputs)
        # Without any modality the number of patients cannot be known: one patient, who has nothing.
        batch = len(next(iter(tokens.values())).values) if tokens else 1
        latents = repeat(self.latents, "m d -> b m d", b=batch)
        if recorder is not None and recorder.gradients:
            latents.requires_grad_()  # a frozen model too has gradients of attention
        for layer in self.layers:
            latents = layer(latents, tokens, recorder)
        return latents


def _check_output(output: str, out_dim: int | None) -> None:
    """Refuse an unknown declaration, and one that does not fit the width of the output where that is known."""
    if output not in get_args(Output):
        raise ValueError(f"expected output to be one of {get_args(Output)} or None, got {output!r}")
    if out_dim is None or output == "discrete":
        return
    if output == "classes":
        if out_dim < 2:
            raise ValueError(f"expected out_dim of at least 2 with output='classes', got {out_dim}")
    elif out_dim != 1:
        raise ValueError(f"expected out_dim=1 with output={output!r}, got {out_dim}")
