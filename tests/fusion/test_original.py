"""Recordings of the authors' release in float64 (weights, inputs, latents, logits, gradients) against our parts."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from healnet import HEALNet

FILES = sorted((Path(__file__).parents[1] / "reference" / "original").glob("*.npz"))


class Recording:
    def __init__(self, path):
        self.arrays = {name: array for name, array in np.load(path).items()}
        self.config = json.loads(str(self.arrays["config"]))
        self.state = self.some("param.")
        self.inputs = {name: x for name, x in self.some("input.").items()}

    def some(self, prefix):
        return {
            k.removeprefix(prefix): torch.from_numpy(v)
            for k, v in self.arrays.items()
            if k.startswith(prefix)
        }


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def recording(request):
    return Recording(request.param)


def test_there_are_recordings():
    assert [path.stem for path in FILES] == [
        "bimodal_untied",
        "one_modality_missing",
        "trimodal_tied_no_self_attention",
    ]


def test_latents_and_logits_agree(recording):
    model = HEALNet.from_original(recording.state, **recording.config).eval()
    latents, logits = (torch.from_numpy(recording.arrays[name]) for name in ("latents", "logits"))
    torch.testing.assert_close(model.fuse(recording.inputs), latents, rtol=0, atol=1e-12)
    torch.testing.assert_close(model(recording.inputs), logits, rtol=0, atol=1e-12)
    assert list(model.encoders) == [str(j) for j in range(recording.config["n_modalities"])]


def test_gradients_agree(recording):
    model = HEALNet.from_original(recording.state, **recording.config).eval()
    model(recording.inputs).square().sum().backward()
    ours = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    theirs = recording.some("grad.")
    modalities = recording.config["n_modalities"]
    torch.testing.assert_close(ours["latents"], theirs["latents"], rtol=0, atol=1e-10)
    # Tied weights were loaded as copies: the recorded gradient is the sum over them. Layer 0 is never tied.
    depth = 1 if recording.config.get("weight_tie_layers") else recording.config["depth"]
    compared = 0
    for t in range(depth):
        for j in range(modalities):
            cross = f"layers.{t}.cross_attention.{j}"
            if f"layers.{t}.{2 * j}.norm.weight" not in theirs:
                assert f"{cross}.token_norm.weight" not in ours  # the modality was missing
                continue
            kv = torch.cat((ours[f"{cross}.to_k.weight"], ours[f"{cross}.to_v.weight"]))
            pairs = {
                "norm_context.weight": ours[f"{cross}.token_norm.weight"],
                "norm_context.bias": ours[f"{cross}.token_norm.bias"],
                "norm.weight": ours[f"{cross}.norm.weight"],
                "fn.to_q.weight": ours[f"{cross}.to_q.weight"],
                "fn.to_kv.weight": kv,
                "fn.to_out.0.weight": ours[f"{cross}.to_out.weight"],
                "fn.to_out.0.bias": ours[f"{cross}.to_out.bias"],
            }
            for name, gradient in pairs.items():
                torch.testing.assert_close(gradient, theirs[f"layers.{t}.{2 * j}.{name}"], rtol=0, atol=1e-10)
                compared += 1
            expand = ours[f"layers.{t}.feed_forward.{j}.1.expand.weight"]
            torch.testing.assert_close(
                expand, theirs[f"layers.{t}.{2 * j + 1}.fn.net.0.weight"], rtol=0, atol=1e-10
            )
    assert compared >= 7


def test_a_tied_checkpoint_without_repeated_entries_loads_the_same():
    recording = Recording(FILES[2])
    full = HEALNet.from_original(recording.state, **recording.config)
    unique = {}
    for name, tensor in recording.state.items():
        _, layer, slot, *_ = [*name.split("."), "", "", ""]
        repeated = layer == "2" or (layer == "1" and slot in ("3", "5"))
        if not (name.startswith("layers.") and repeated):
            unique[name] = tensor
    assert len(unique) < len(recording.state)
    again = HEALNet.from_original(unique, **recording.config)
    torch.testing.assert_close(again(recording.inputs), full(recording.inputs), rtol=0, atol=0)


def test_self_attention_runs_after_a_missing_modality_as_in_the_release():
    recording = Recording(FILES[0])
    model = HEALNet.from_original(recording.state, **recording.config).eval()
    first_missing = {"1": recording.inputs["1"]}
    latents = model.latents.expand(3, -1, -1)
    tokens = model.encode(first_missing)
    for layer in model.layers:
        for name in ("0", "1"):
            if name in tokens:
                x = tokens[name]
                latents = latents + layer.cross_attention[name](latents, x.standardized(), x.mask)
                latents = latents + layer.feed_forward[name](latents)
            latents = latents + layer.self_attention[0](latents)
            latents = latents + layer.self_feed_forward[0](latents)
    torch.testing.assert_close(model.fuse(first_missing), latents, rtol=0, atol=1e-12)


def test_self_attention_has_heads_of_its_own():
    """Two heads of eight and four of four have weights of one shape; only the arguments tell them apart."""
    recording = Recording(FILES[0])
    model = HEALNet.from_original(recording.state, **recording.config | {"l_heads": 4, "latent_dim_head": 4})
    latents, layer = model.latents.detach()[None], model.layers[0].self_attention[0]
    q, k, v = layer.to_qkv(layer.norm(latents)).unflatten(-1, (3, 4, 4)).permute(2, 0, 3, 1, 4)
    weights = (2 * q @ k.transpose(-1, -2) / 4**0.5).softmax(-1)  # temperature 0.5
    update = layer.to_out((weights @ v).transpose(1, 2).flatten(2))
    expected = torch.nn.functional.leaky_relu(update, 0.01)
    torch.testing.assert_close(layer(latents), expected, rtol=0, atol=1e-12)


def test_without_a_head_the_model_returns_latents():
    recording = Recording(FILES[0])
    state = {name: x for name, x in recording.state.items() if not name.startswith("to_logits")}
    model = HEALNet.from_original(state, **recording.config, final_classifier_head=False)
    latents = torch.from_numpy(recording.arrays["latents"])
    torch.testing.assert_close(model(recording.inputs), latents, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"self_per_cross_attn": 2},
            "self_per_cross_attn=2: expected 0 or 1; the release's forward pass fails with more blocks",
        ),
        ({"channel_dims": [20]}, "expected n_modalities=2 channel_dims and num_spatial_axes, got 1 and 2"),
        ({"num_spatial_axes": [1, 5]}, "num_spatial_axes[1]=5: expected 1 to 4"),
        ({"num_spatial_axes": [0, 2]}, "num_spatial_axes[0]=0: expected 1 to 4"),
        (
            {"weight_tie_layers": True},
            "weight_tie_layers=True: 'layers.1.3.norm.weight' and 'layers.1.1.norm.weight' are one weight, "
            "but differ in the checkpoint",
        ),
        (
            {"depth": 3},
            "the checkpoint lacks 'layers.2.0.fn.to_kv.weight', which the arguments ask for",
        ),
        (
            {"depth": 1},
            "the checkpoint holds 40 weights that the arguments do not ask for, among them 'layers.1.0.fn.to_kv.weight'",
        ),
        (
            {"x_heads": 4},
            "checkpoint and arguments disagree: layers.0.cross_attention.0.to_q.weight is (16, 16) in the checkpoint, "
            "the arguments make it (32, 16)",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change, message):
    recording = Recording(FILES[0])
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole message is compared
        HEALNet.from_original(recording.state, **recording.config | change)
    assert str(error.value) == message
