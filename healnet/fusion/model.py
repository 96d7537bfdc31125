"""HEALNet: encoders, a shared latent array, fusion layers and a head."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

import torch
from einops import repeat
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from healnet.encoders.base import ModalityEncoder
from healnet.encoders.encode import encoder_dict
from healnet.fusion.hybrid import HybridFusionLayer
from healnet.fusion.layer import FusionLayer
from healnet.fusion.original import load_original
from healnet.fusion.output import Output, check_output
from healnet.fusion.settings import check_settings, settings_tensor
from healnet.fusion.token_parallel import encode_shards, same_random_numbers
from healnet.fusion.token_stream import TokenStream, encode_streams
from healnet.fusion.trace import AttentionTrace, Keep, TraceRecorder
from healnet.fusion.untouched import touch
from healnet.inputs import map_tensors
from healnet.nn.token_shards import TokenShards
from healnet.tokens import Tokens

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["HEALNet", "MeanHead"]


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
    tokens of each modality. Missing modalities are skipped, per patient. In training, the parameters of a modality that the
    whole batch lacks get gradients of zero, so that DistributedDataParallel works with `find_unused_parameters=False`.

    Args:
        encoders: Encoder per modality; their order is the order of fusion.
        out_dim: Width of the output: time bins for a discrete survival loss, 1 for Cox.
        depth: Number of fusion layers.
        num_latents: Latents m.
        latent_dim: Width d of a latent.
        num_heads: Attention heads h.
        head_dim: Width of a head.
        self_attention: Self-attention blocks after each modality's update; 0 for none.
        tie_layers: Whether all layers share one set of weights.
        attention_dropout: Probability of dropout in attention; in cross-attention it drops whole tokens.
        ff_dropout: Dropout at the end of each feed-forward.
        ff_mult: Hidden width of a feed-forward over `latent_dim`.
        gate: Gate of the feed-forwards, "selu" or "gelu".
        temperature: Divisor of attention scores before the softmax.
        layers: Fusion layers of your own instead (the sizes above then only shape latents and head).
        head: Module (b, m, d) -> output instead of `MeanHead`; a tensor, or a tuple or mapping of tensors.
        output: Meaning of the raw output, kept as the attribute `output` for what reads it, such as `healnet.explain`:
            "cox" (a log hazard), "discrete" (logits of the hazard in each time bin), "classes" (logits of classes) or
            "value" (one number). None leaves it undeclared.
        checkpoint_layers: Layers whose intermediate results are computed a second time in the backward pass instead of kept
            (activation checkpointing): True for all, or their numbers.
        token_group: Process group, or one dimension of a `DeviceMesh`, over whose processes each patient's tokens are split;
            see `healnet.fusion.token_parallel`. Each process is given its own part of the same patients' inputs, of a
            `Stream` `stream.part(rank, number of processes)`.

    Attributes:
        arguments: Arguments above but for `encoders`, from which a saved model is rebuilt; None for one with `layers` or
            a `head` of your own.

    Shape:
        inputs: whatever each encoder takes, with b patients first; a modality left out or None is absent for the whole batch
        returns: (b, out_dim)

    Raises:
        ValueError: A size below 1; an unknown `output`, or one that `out_dim` cannot hold; an unknown modality; an input its
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
        checkpoint_layers: bool | Sequence[int] = False,
        token_group: ProcessGroup | DeviceMesh | None = None,
    ) -> None:
        super().__init__()
        sizes = {
            "out_dim": out_dim,
            "depth": depth,
            "num_latents": num_latents,
            "latent_dim": latent_dim,
            "num_heads": num_heads,
            "head_dim": head_dim,
            "ff_mult": ff_mult,
        }
        options = {
            "self_attention": self_attention,
            "tie_layers": tie_layers,
            "attention_dropout": attention_dropout,
            "ff_dropout": ff_dropout,
            "gate": gate,
            "temperature": temperature,
            "output": output,
        }
        self.arguments = None if layers is not None or head is not None else {**sizes, **options}
        self.encoders = encoder_dict(encoders)
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"expected {name} of at least 1, got {size}")
        check_output(output, None if head is not None else out_dim)
        self.output = output
        self.token_shards = None if token_group is None else TokenShards(token_group)
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
        every = range(len(self.layers)) if checkpoint_layers is True else checkpoint_layers or ()
        if not set(every) <= set(range(len(self.layers))):
            raise ValueError(
                f"expected checkpoint_layers to be numbers of layers below {len(self.layers)}, got {list(every)}"
            )
        self._checkpointed = frozenset(every)
        self.head = MeanHead(latent_dim, out_dim) if head is None else head

    @classmethod
    def from_original(cls, state_dict: Mapping[str, Tensor], **arguments: Any) -> HEALNet:
        """A model with the weights of a checkpoint of the authors' release; it gives the same logits and latents.

        Args:
            state_dict: Weights of the release's `HealNet`.
            **arguments: Arguments of the release's constructor (n_modalities, channel_dims, num_spatial_axes,
                out_dims, ...); see `healnet.fusion.original.load_original`.

        Returns:
            A model whose modalities are named "0", "1", ... and take tensors of shape (b, *axes, channels).

        Raises:
            ValueError: An option that cannot be expressed, or weights that do not fit the arguments; by name.
        """
        return load_original(cls, state_dict, **arguments)

    def get_extra_state(self) -> Tensor:
        """Settings that shapes do not fix (heads, temperature, gate, order of modalities, ...), stored with the weights."""
        return settings_tensor(self)

    def set_extra_state(self, state: Any) -> None:
        """Refuse weights of another model, also where their shapes fit.

        Raises:
            ValueError: Settings that differ, by name.
        """
        check_settings(self, state)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load weights; those of another model are refused before anything is overwritten.

        Raises:
            ValueError: Settings that differ, by name.
            RuntimeError: Keys that are missing or left over, or other shapes (from PyTorch).
        """
        if "_extra_state" in state_dict:
            check_settings(self, state_dict["_extra_state"])
        return super().load_state_dict(state_dict, strict, assign)

    def forward(self, inputs: Mapping[str, Any]) -> Tensor:
        """Predict from a batch of inputs."""
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
            inputs: Inputs as for `forward`.
            keep: Axes of the weights that survive the mean over heads and latents: "none", "heads", "latents", "both".
            gradient_of: Quantity of the output, one number per patient, such as the risk; `trace.gradients` then holds
                each attention weight times the gradient of that quantity with respect to it, reduced in the same way.

        Returns:
            What `forward` returns, and an `AttentionTrace`: `trace["slide"]` is (layers, b, n), each patient's weights
            summing to one over real tokens. Of a modality that is a `Stream`, `trace.streams` makes them block by block.
            The trace holds no graph.
        """
        recorder = TraceRecorder(keep, gradients=gradient_of is not None)
        if gradient_of is None:
            return self.head(self._fuse(inputs, recorder)), recorder.trace()
        with torch.inference_mode(False), torch.enable_grad():
            output: Tensor = self.head(self._fuse(inputs, recorder))
            recorder.differentiate(gradient_of(output))
        return map_tensors(lambda tensor, _: tensor.detach(), output), recorder.trace()

    def encode(self, inputs: Mapping[str, Any]) -> dict[str, Tokens | TokenStream]:
        """The tokens of every modality that is there, in the order of fusion; of a `Stream` a `TokenStream`."""
        if self.token_shards is None:
            tokens = encode_streams(self.encoders, inputs)
        else:
            tokens = encode_shards(self.encoders, inputs, self.token_shards, self.latents.device)
        if any(isinstance(x, TokenStream) for x in tokens.values()):
            for layer in self.layers:
                if not getattr(layer, "streams", False):
                    raise ValueError(f"expected fusion layers that take a Stream, got {type(layer).__name__}")
        return tokens

    def _fuse(self, inputs: Mapping[str, Any], recorder: TraceRecorder | None) -> Tensor:
        tokens = self.encode(inputs)
        # Without any modality the number of patients cannot be known: one patient, who has nothing.
        batch = 1
        if tokens:
            first = next(iter(tokens.values()))
            batch = len(first) if isinstance(first, TokenStream) else len(first.values)
        latents: Tensor = repeat(self.latents, "m d -> b m d", b=batch)
        if recorder is not None and recorder.gradients:
            latents.requires_grad_()  # a frozen model too has gradients of attention
        # The encoders of absent modalities, and of streams, which may have no patient; see `touch`.
        unused = [e for name, e in self.encoders.items() if not isinstance(tokens.get(name), Tokens)]
        alike: AbstractContextManager[None] = nullcontext()
        if self.token_shards is not None and self.training:
            alike = same_random_numbers(self.token_shards, latents.device)
        with alike:
            for number, layer in enumerate(self.layers):
                if number in self._checkpointed and self.training and recorder is None:
                    latents = _recomputed(layer, latents, tokens)
                else:
                    latents = layer(latents, tokens, recorder)
                if unused and self.training and not isinstance(layer, HybridFusionLayer):
                    latents = touch(latents, [layer])
        return touch(latents, unused) if self.training else latents


def _recomputed(layer: nn.Module, latents: Tensor, tokens: Mapping[str, Tokens | TokenStream]) -> Tensor:
    """A layer's latents, by activation checkpointing."""

    def run(latents: Tensor) -> Tensor:
        # Nothing cached on the tokens: both runs have to compute the same.
        fresh = {
            n: Tokens(x.values, x.mask, x.shards) if isinstance(x, Tokens) else x for n, x in tokens.items()
        }
        return layer(latents, fresh, None)

    updated: Tensor = checkpoint(run, latents, use_reentrant=False)
    return updated
