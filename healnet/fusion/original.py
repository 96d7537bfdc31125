"""Load checkpoints of the authors' release.

The release (github.com/konst-int-i/healnet) differs from the paper in ways that change numbers. Each is expressed here:
softmax temperature 0.5; LeakyReLU after each attention's output projection; tied layers that share one cross feed-forward
between modalities and never tie layer 0 (loaded as separate copies); self-attention that also runs after a modality that is
missing, because only the cross-attention fails on None; Fourier features of positions on [-1, 1] for every axis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from healnet.encoders.grid import GridEncoder
from healnet.fusion.hybrid import HybridFusionLayer

__all__ = ["load_original"]

TEMPERATURE = 0.5  # `temperature_softmax(sim, temperature=0.5)` in the release's Attention
NEGATIVE_SLOPE = 1e-2  # of the LeakyReLU in the release's `to_out`


Model = TypeVar("Model", bound=nn.Module)


def load_original(
    model_class: Callable[..., Model],
    state_dict: Mapping[str, Tensor],
    *,
    n_modalities: int,
    channel_dims: Sequence[int],
    num_spatial_axes: Sequence[int],
    out_dims: int,
    depth: int = 3,
    num_freq_bands: int = 2,
    max_freq: float = 10.0,
    l_c: int = 128,
    l_d: int = 128,
    x_heads: int = 8,
    l_heads: int = 8,
    cross_dim_head: int = 64,
    latent_dim_head: int = 64,
    attn_dropout: float = 0.0,
    ff_dropout: float = 0.0,
    weight_tie_layers: bool = False,
    fourier_encode_data: bool = True,
    self_per_cross_attn: int = 1,
    final_classifier_head: bool = True,
    snn: bool = True,
) -> Model:
    """A `HEALNet` with the weights of a checkpoint of the authors' release, and the same logits and latents.

    The keyword arguments are those of the release's constructor, with its defaults. Modalities are named "0", "1", ... in
    their order and take tensors of shape (b, *axes, channels). Where `Masked` hides the end of an axis, positions span what
    is left; the release's own mask leaves them as they were.

    Args:
        model_class: `HEALNet` or a subclass; `HEALNet.from_original` calls this function.
        state_dict: Weights of the release's `HealNet`; those of a tied model with or without the repeated entries.
        n_modalities: Number of modalities.
        channel_dims: Channels of each modality.
        num_spatial_axes: Axes of each modality, 1 to 4.
        out_dims: Width of the logits.
        depth: Number of fusion layers.
        num_freq_bands: Fourier bands per axis.
        max_freq: Highest Fourier frequency, doubled.
        l_c: Number of latents.
        l_d: Width of a latent.
        x_heads: Heads of cross-attention.
        l_heads: Heads of self-attention.
        cross_dim_head: Width of a cross-attention head.
        latent_dim_head: Width of a self-attention head.
        attn_dropout: Attention dropout; in training, cross-attention drops whole tokens where the release drops single
            weights, with the same expectation.
        ff_dropout: Feed-forward dropout.
        weight_tie_layers: Whether layers after the first share weights.
        fourier_encode_data: Whether positions are concatenated to the channels.
        self_per_cross_attn: 0 or 1 self-attention blocks; the release's own forward pass fails with more.
        final_classifier_head: Whether there is a head; without, the model returns latents.
        snn: SELU gate; GELU otherwise.

    Raises:
        ValueError: An option that cannot be expressed or that the release itself cannot run, arguments of different
            lengths, or weights that are missing, left over, of another shape than the arguments say, or said to be tied
            but different.
    """
    if self_per_cross_attn not in (0, 1):
        raise ValueError(
            f"self_per_cross_attn={self_per_cross_attn}: expected 0 or 1; the release's forward pass fails with more blocks"
        )
    if not n_modalities == len(channel_dims) == len(num_spatial_axes):
        raise ValueError(
            f"expected n_modalities={n_modalities} channel_dims and num_spatial_axes, "
            f"got {len(channel_dims)} and {len(num_spatial_axes)}"
        )
    for j, axes in enumerate(num_spatial_axes):
        if not 1 <= axes <= 4:
            raise ValueError(f"num_spatial_axes[{j}]={axes}: expected 1 to 4")
    encoders = {
        str(j): GridEncoder(
            channels, axes, num_bands=num_freq_bands, max_freq=max_freq, positions=fourier_encode_data
        )
        for j, (channels, axes) in enumerate(zip(channel_dims, num_spatial_axes, strict=True))
    }
    layers = [
        HybridFusionLayer(
            l_d,
            {name: encoder.token_dim for name, encoder in encoders.items()},
            num_heads=x_heads,
            head_dim=cross_dim_head,
            self_attention=self_per_cross_attn,
            self_num_heads=l_heads,
            self_head_dim=latent_dim_head,
            attention_dropout=attn_dropout,
            ff_dropout=ff_dropout,
            gate="selu" if snn else "gelu",
            temperature=TEMPERATURE,
            activation=partial(nn.LeakyReLU, NEGATIVE_SLOPE),
            self_attention_when_absent=True,
        )
        for _ in range(depth)
    ]
    model = model_class(
        encoders,
        out_dim=out_dims,
        num_latents=l_c,
        latent_dim=l_d,
        layers=layers,
        head=None if final_classifier_head else nn.Identity(),
    )
    theirs = {name: torch.as_tensor(tensor) for name, tensor in state_dict.items()}
    ours = _translate(
        theirs, n_modalities, depth, weight_tie_layers, self_per_cross_attn, final_classifier_head
    )
    expected = model.state_dict()
    for name, tensor in ours.items():
        if expected[name].shape != tensor.shape:
            raise ValueError(
                f"checkpoint and arguments disagree: {name} is {tuple(tensor.shape)} in the checkpoint, "
                f"the arguments make it {tuple(expected[name].shape)}"
            )
    model.to(theirs["latents"].dtype).load_state_dict(ours | {"_extra_state": expected["_extra_state"]})
    return model


def _translate(
    theirs: Mapping[str, Tensor], n_modalities: int, depth: int, tied: bool, blocks: int, head: bool
) -> dict[str, Tensor]:
    """Their names to ours. Slots of a layer: cross-attention 2j, its feed-forward 2j + 1, self-attention last."""
    used: set[str] = set()

    def take(layer: int, slot: str, name: str) -> Tensor:
        names = [f"layers.{layer}.{slot}.{name}"]
        # A state dict without repeated entries holds layer 1, and one cross feed-forward.
        if tied and layer > 0:
            shared = "1" if slot.isdigit() and int(slot) % 2 else slot
            names += [
                f"layers.{layer}.{shared}.{name}",
                f"layers.1.{slot}.{name}",
                f"layers.1.{shared}.{name}",
            ]
        found = [candidate for candidate in dict.fromkeys(names) if candidate in theirs]
        if not found:
            raise ValueError(f"the checkpoint lacks {names[0]!r}, which the arguments ask for")
        for other in found[1:]:
            if not torch.equal(theirs[other], theirs[found[0]]):
                raise ValueError(
                    f"weight_tie_layers=True: {found[0]!r} and {other!r} are one weight, but differ in the checkpoint"
                )
        used.add(found[0])
        return theirs[found[0]]

    def feed_forward(layer: int, slot: str, prefix: str) -> dict[str, Tensor]:
        parts = {"0": "norm", "1.expand": "fn.net.0", "1.contract": "fn.net.2"}
        return {
            f"{prefix}.{our}.{kind}": take(layer, slot, f"{their}.{kind}")
            for our, their in parts.items()
            for kind in ("weight", "bias")
        }

    ours: dict[str, Tensor] = {}
    for t in range(depth):
        for j in range(n_modalities):
            cross, slot = f"layers.{t}.cross_attention.{j}", str(2 * j)
            keys, values = take(t, slot, "fn.to_kv.weight").chunk(2)
            ours |= {
                f"{cross}.norm.weight": take(t, slot, "norm.weight"),
                f"{cross}.norm.bias": take(t, slot, "norm.bias"),
                f"{cross}.token_norm.weight": take(t, slot, "norm_context.weight"),
                f"{cross}.token_norm.bias": take(t, slot, "norm_context.bias"),
                f"{cross}.to_q.weight": take(t, slot, "fn.to_q.weight"),
                f"{cross}.to_k.weight": keys,
                f"{cross}.to_v.weight": values,
                f"{cross}.to_out.weight": take(t, slot, "fn.to_out.0.weight"),
                f"{cross}.to_out.bias": take(t, slot, "fn.to_out.0.bias"),
            }
            ours |= feed_forward(t, str(2 * j + 1), f"layers.{t}.feed_forward.{j}")
        for _ in range(blocks):
            own, slot = f"layers.{t}.self_attention.0", f"{2 * n_modalities}.0"
            ours |= {
                f"{own}.norm.weight": take(t, slot, "norm.weight"),
                f"{own}.norm.bias": take(t, slot, "norm.bias"),
                f"{own}.to_qkv.weight": torch.cat(
                    (take(t, slot, "fn.to_q.weight"), take(t, slot, "fn.to_kv.weight"))
                ),
                f"{own}.to_out.weight": take(t, slot, "fn.to_out.0.weight"),
                f"{own}.to_out.bias": take(t, slot, "fn.to_out.0.bias"),
            }
            ours |= feed_forward(t, f"{2 * n_modalities}.1", f"layers.{t}.self_feed_forward.0")
    top = {"latents": "latents"}
    if head:
        top |= {"head.norm": "to_logits.1", "head.linear": "to_logits.2"}
    for our, their in top.items():
        kinds = [""] if our == "latents" else [".weight", ".bias"]
        for kind in kinds:
            if their + kind not in theirs:
                raise ValueError(f"the checkpoint lacks {their + kind!r}, which the arguments ask for")
            used.add(their + kind)
            ours[our + kind] = theirs[their + kind]
    left = sorted(set(theirs) - used)
    if left:
        raise ValueError(
            f"the checkpoint holds {len(left)} weights that the arguments do not ask for, among them {left[0]!r}"
        )
    return ours
