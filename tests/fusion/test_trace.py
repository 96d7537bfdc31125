import pytest
import torch

from healnet import HEALNet, Masked
from healnet.encoders import OmicEncoder
from healnet.fusion import AttentionTrace, TraceRecorder

B, DEPTH, M, H = 4, 3, 5, 2


@pytest.fixture
def model():
    torch.manual_seed(0)
    encoders = {"rna": OmicEncoder(7, token_dim=6), "protein": OmicEncoder(11, token_dim=4)}
    return HEALNet(
        encoders,
        out_dim=2,
        depth=DEPTH,
        num_latents=M,
        latent_dim=12,
        num_heads=H,
        head_dim=4,
        self_attention=2,
    ).double()


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(1)
    mask = torch.rand(B, 11, generator=generator) < 0.7
    mask[2] = False
    return {
        "rna": torch.randn(B, 7, generator=generator, dtype=torch.float64),
        "protein": Masked(torch.randn(B, 11, generator=generator, dtype=torch.float64), mask),
    }


@pytest.mark.parametrize(
    ("keep", "axes"), [("none", ()), ("heads", (H,)), ("latents", (M,)), ("both", (H, M))]
)
def test_weights_sum_to_one_over_real_tokens(model, inputs, keep, axes):
    output, trace = model.trace(inputs, keep=keep)
    torch.testing.assert_close(output, model(inputs), rtol=0, atol=0)
    assert list(trace) == ["rna", "protein"]
    assert len(trace) == 2
    mask = inputs["protein"].mask
    for name, n in (("rna", 7), ("protein", 11)):
        weights = trace[name]
        assert weights.shape == (DEPTH, B, *axes, n)
        assert not weights.requires_grad
        present = torch.ones(B) if name == "rna" else mask.any(1)
        expected = present.double().view(1, B, *[1] * len(axes)).expand(weights.shape[:-1])
        torch.testing.assert_close(weights.sum(-1), expected, rtol=0, atol=1e-12)
    protein = trace["protein"]
    hidden = ~mask.view(1, B, *[1] * len(axes), 11).expand(protein.shape)
    assert (protein[hidden] == 0).all()
    assert (protein[~hidden] > 0).all()


@pytest.mark.parametrize("keep", ["none", "heads", "latents", "both"])
def test_weights_sum_to_one_under_autocast(model, inputs, keep):
    model.float()
    inputs = {"rna": 9 * inputs["rna"].float(), "protein": Masked(*inputs["protein"])}
    for layer in model.layers:
        for attention in layer.cross_attention.values():
            torch.nn.init.normal_(attention.to_q.weight)
            torch.nn.init.normal_(attention.to_k.weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, trace = model.trace(inputs, keep=keep)
        assert torch.equal(output, model(inputs))
    for name, present in (("rna", torch.ones(B)), ("protein", inputs["protein"].mask.any(1).float())):
        total = trace[name].sum(-1)
        expected = present.view(1, B, *[1] * (total.dim() - 2)).expand_as(total)
        torch.testing.assert_close(total, expected, rtol=0, atol=1e-5)


def test_kept_axes_average_to_the_mean(model, inputs):
    mean = model.trace(inputs)[1]
    both = model.trace(inputs, keep="both")[1]
    for name in mean:
        torch.testing.assert_close(both[name].mean((2, 3)), mean[name], rtol=1e-9, atol=1e-15)


def test_self_attention_is_recorded_and_is_the_identity_for_the_absent(model, inputs):
    _, trace = model.trace(inputs)
    rows = trace.latents["protein"]
    assert rows.shape == (DEPTH * 2, B, M, M)
    torch.testing.assert_close(rows.sum(-1), torch.ones_like(rows[..., 0]), rtol=0, atol=1e-14)
    assert (rows[:, 2] == torch.eye(M)).all()
    assert (rows[:, 1] != torch.eye(M)).any()


def test_gradients_are_the_first_order_effect_of_each_weight(model, inputs):
    """Finite differences of the risk in the attention weights of one layer, through a layer that takes them as given."""
    output, trace = model.trace(inputs, keep="both", gradient_of=lambda out: out[:, 0])
    assert not output.requires_grad
    torch.testing.assert_close(output, model(inputs), rtol=0, atol=0)
    weights, effects = trace["rna"], trace.gradients["rna"]
    assert effects.shape == weights.shape
    last = model.layers[-1].cross_attention["rna"]
    # Where attention moves from token 0 to token 1 by a small amount, the risk moves by the difference of gradients.
    slopes = effects[-1] / weights[-1]
    step = 1e-6
    original = type(last)._in_token_space

    def shifted(self, queries, tokens, *rest):
        heads, attended = original(self, queries, tokens, *rest)
        to_v = self.to_v.weight.view(H, -1, 6)
        moved = step * (tokens[:, 1] - tokens[:, 0]) * self.token_norm.weight
        heads = heads.clone()
        heads[:, 1, 2] += moved @ to_v[1].T
        return heads, attended

    last._in_token_space = shifted.__get__(last)
    last._projected = None  # the rule picks token space here
    measured = (model(inputs)[:, 0] - output[:, 0]) / step
    torch.testing.assert_close(
        slopes[:, 1, 2, 1] - slopes[:, 1, 2, 0], measured.detach(), rtol=1e-4, atol=1e-8
    )


def test_a_modality_that_nobody_has_is_not_in_the_trace(model, inputs):
    _, trace = model.trace({"rna": inputs["rna"]})
    with pytest.raises(KeyError) as error:
        trace["protein"]
    assert error.value.args == ("no attention was recorded for modality 'protein'; recorded: ['rna']",)


def test_the_graph_is_not_kept(model, inputs):
    with torch.no_grad():
        _, trace = model.trace(inputs, gradient_of=lambda out: out.sum(1))
    assert not any(
        x.requires_grad for x in (*trace.values(), *trace.gradients.values(), *trace.latents.values())
    )
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_frozen_model_in_inference_mode_gives_the_same_gradients_of_attention(model, inputs, mode):
    expected = model.trace(inputs, gradient_of=lambda out: out[:, 0])[1].gradients
    model.requires_grad_(False)
    with mode():
        got = model.trace(inputs, gradient_of=lambda out: out[:, 0])[1].gradients
    assert expected["rna"].abs().max() > 1e-6
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-14)
    assert not any(p.requires_grad for p in model.parameters())


def test_a_recorder_takes_weights_of_other_layers():
    recorder = TraceRecorder()
    weights = torch.tensor([[0.25, 0.75]], requires_grad=True)
    recorder.add("ct", weights)
    recorder.add("ct", weights)
    trace = recorder.trace()
    assert trace["ct"].tolist() == [[[0.25, 0.75]]] * 2
    assert not trace["ct"].requires_grad
    assert repr(trace) == "AttentionTrace(ct: (2, 1, 2); keep='none')"


def test_an_unknown_keep_is_refused():
    with pytest.raises(
        ValueError, match=r"^expected keep to be 'none', 'heads', 'latents' or 'both', got 'all'$"
    ):
        TraceRecorder("all")


def test_a_trace_is_a_mapping():
    trace = AttentionTrace({"a": torch.ones(1, 1, 1)})
    assert dict(trace) == {"a": torch.ones(1, 1, 1)}
    assert trace.gradients == {}
