import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from healnet.nn.attention import CrossAttention, SelfAttention, contraction_order
from healnet.tokens import Tokens

B, M, D, N, C, H, E = 2, 3, 5, 11, 7, 2, 13


def module(dropout=0.0, temperature=1.0):
    torch.manual_seed(0)
    attention = CrossAttention(D, C, H, E, dropout, temperature, torch.nn.Tanh()).double()
    torch.nn.init.normal_(attention.token_norm.weight)
    torch.nn.init.normal_(attention.token_norm.bias)
    return attention


def example(seed=1, learned=True):
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(B, M, D, generator=generator, dtype=torch.float64, requires_grad=True)
    values = torch.randn(B, N, C, generator=generator, dtype=torch.float64, requires_grad=learned)
    return latents, values


def plain(attention, latents, values, mask=None):
    """LayerNorm, project, explicit softmax, einsum."""
    context = torch.nn.functional.layer_norm(
        values, (C,), attention.token_norm.weight, attention.token_norm.bias
    )
    normed = attention.norm(latents)
    split = [
        layer(x).unflatten(-1, (H, E))
        for layer, x in ((attention.to_q, normed), (attention.to_k, context), (attention.to_v, context))
    ]
    scores = torch.einsum("bmhe,bnhe->bhmn", split[0], split[1]) * (E**-0.5 / attention.temperature)
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None], -math.inf)
    weights = scores.softmax(-1)
    heads = torch.einsum("bhmn,bnhe->bmhe", weights, split[2]).flatten(2)
    return attention.activation(attention.to_out(heads)), weights


@pytest.mark.parametrize("order", ["token", "projected"])
@pytest.mark.parametrize("masked", [False, True])
def test_both_orders_of_contraction_are_the_plain_formulation(order, masked):
    attention, (latents, values) = module(temperature=0.7), example()
    mask = None
    if masked:
        mask = torch.arange(N) < torch.tensor([[4], [N]])
    inputs = [latents, values, *attention.parameters()]
    got = attention(latents, Tokens(values, mask).standardized(), mask, order)
    expected, _ = plain(attention, latents, values, mask)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    slope = torch.linspace(-1, 1, expected.numel(), dtype=torch.float64).view_as(expected)
    ours = torch.autograd.grad(got, inputs, slope)
    theirs = torch.autograd.grad(expected, inputs, slope)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


@pytest.mark.parametrize("order", ["token", "projected"])
@pytest.mark.parametrize("keep", ["none", "heads", "latents", "both"])
def test_weights_are_those_of_the_plain_formulation(order, keep):
    attention, (latents, values) = module(), example()
    mask = torch.arange(N) < torch.tensor([[4], [N]])
    _, attended = attention.attend(latents, Tokens(values, mask).standardized(), mask, order)
    _, weights = plain(attention, latents, values, mask)
    axes = {"none": (1, 2), "heads": (2,), "latents": (1,), "both": ()}[keep]
    expected = weights.mean(axes) if axes else weights
    torch.testing.assert_close(attended.weights(keep), expected.detach(), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("order", ["token", "projected"])
def test_weights_times_their_gradient(order):
    attention, (latents, values) = module(), example()
    update, attended = attention.attend(latents, Tokens(values).standardized(), None, order)
    (slope,) = torch.autograd.grad(update.square().sum(), attended.output)
    # The plain way: perturb the weights themselves.
    context = torch.nn.functional.layer_norm(
        values, (C,), attention.token_norm.weight, attention.token_norm.bias
    )
    _, weights = plain(attention, latents, values)
    weights = weights.detach().requires_grad_()
    v = attention.to_v(context).unflatten(-1, (H, E))
    heads = torch.einsum("bhmn,bnhe->bmhe", weights, v).flatten(2)
    attention.activation(attention.to_out(heads)).square().sum().backward()
    # Moving weight between tokens is what a gradient can mean here: a constant per row does not matter.
    got = attended.weights("both", slope) / attended.weights("both")
    difference = got - weights.grad
    torch.testing.assert_close(difference, difference[..., :1].expand_as(difference), rtol=0, atol=1e-10)


def test_dropout_drops_the_same_tokens_in_both_orders_and_keeps_the_expectation():
    attention, (latents, values) = module(dropout=0.4), example(learned=False)
    attention.activation = torch.nn.Identity()
    z = Tokens(values).standardized()
    with torch.no_grad():
        torch.manual_seed(3)
        token = attention(latents, z, None, "token")
        torch.manual_seed(3)
        projected = attention(latents, z, None, "projected")
        torch.testing.assert_close(token, projected, rtol=0, atol=1e-12)
        rest = attention.eval()(latents, z)
        assert (token - rest).abs().max() > 1e-3
        attention.train()
        mean = torch.stack([attention(latents, z) for _ in range(4000)]).mean(0)
    torch.testing.assert_close(mean, rest, rtol=0, atol=0.04)


@settings(max_examples=50, deadline=None)
@given(m=st.integers(1, 300), c=st.integers(1, 3000), e=st.integers(1, 300), n=st.integers(1, 10**6))
def test_the_rule_picks_the_fewer_multiplications(m, c, e, n):
    token, projected = m * n * c, n * c * e + m * n * e
    if token != projected:
        assert contraction_order(m, c, e) == ("token" if token < projected else "projected")


@pytest.mark.parametrize(
    ("num_latents", "limit", "expected"),
    [(M, 2**28, "token"), (1000, 2**28, "projected"), (1000, 400, "token")],
)
def test_what_is_chosen_per_call(num_latents, limit, expected, monkeypatch):
    """Projected only where it is cheaper (m c / (m + c) = 7 > e) and its keys and values fit."""
    monkeypatch.setattr("healnet.nn.attention.PROJECTED_ELEMENTS", limit)
    attention = CrossAttention(D, C, num_heads=H, head_dim=E if num_latents == M else 5)
    _, attended = attention.attend(torch.randn(B, num_latents, D), torch.randn(B, N, C))
    assert (
        attended.queries.shape
        == {"token": (B, H * num_latents, C), "projected": (B * H, num_latents, 5)}[expected]
    )


@pytest.mark.parametrize("order", ["token", "projected"])
def test_autocast_agrees_with_full_precision(order):
    attention, (latents, values) = module().float(), example()
    latents, values = latents.detach().float(), values.detach().float()
    expected = attention(latents, Tokens(values).standardized(), None, order)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = attention(latents, Tokens(values).standardized(), None, order)
        got.float().square().sum().backward()
    torch.testing.assert_close(got.float(), expected, rtol=0, atol=0.03)
    assert all(torch.isfinite(p.grad).all() for p in attention.parameters())


@pytest.mark.parametrize("order", ["token", "projected"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_module_in_half_precision_agrees_with_full_precision(order, dtype):
    attention, (latents, values) = module().float(), example()
    latents, z = latents.detach().float(), Tokens(values.detach().float()).standardized()
    expected = attention(latents, z, None, order)
    got = attention.to(dtype)(latents.to(dtype), z.to(dtype), None, order)
    assert got.dtype == dtype
    torch.testing.assert_close(got.float(), expected, rtol=0, atol=0.03)


@pytest.mark.parametrize("order", ["token", "projected"])
@pytest.mark.parametrize("keep", ["none", "heads", "latents", "both"])
def test_no_patients_at_all(order, keep):
    update, attended = module().attend(
        torch.zeros(0, M, D).double(), torch.zeros(0, N, C).double(), None, order
    )
    assert update.shape == (0, M, D)
    axes = {"none": (), "heads": (H,), "latents": (M,), "both": (H, M)}[keep]
    assert attended.weights(keep).shape == (0, *axes, N)


@pytest.mark.parametrize(
    "kind", [lambda t: CrossAttention(3, 3, temperature=t), lambda t: SelfAttention(3, temperature=t)]
)
@pytest.mark.parametrize("temperature", [0, -1.0, math.nan])
def test_a_temperature_that_is_not_positive_is_refused(kind, temperature):
    with pytest.raises(ValueError, match=rf"^expected a temperature above 0, got {temperature}$"):
        kind(temperature)


def test_self_attention_is_the_plain_formulation_and_so_are_its_weights():
    torch.manual_seed(0)
    attention = SelfAttention(D, H, E, temperature=0.5).double()
    latents = torch.randn(B, M, D, dtype=torch.float64)
    q, k, v = attention.to_qkv(attention.norm(latents)).unflatten(-1, (3, H, E)).unbind(2)
    weights = (torch.einsum("bmhe,bnhe->bhmn", q, k) * 2 / math.sqrt(E)).softmax(-1)
    expected = attention.to_out(torch.einsum("bhmn,bnhe->bmhe", weights, v).flatten(2))
    torch.testing.assert_close(attention(latents), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(attention.weights(latents), weights.mean(1), rtol=0, atol=1e-12)


def test_self_attention_has_a_second_derivative():
    torch.manual_seed(0)
    attention = SelfAttention(D, H, E).double()
    latents = torch.randn(B, M, D, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(attention, (latents,))


def test_dropout_of_self_attention_is_for_training_alone_and_keeps_the_expectation():
    torch.manual_seed(0)
    attention = SelfAttention(D, H, E, dropout=0.4).double()
    latents = torch.randn(B, M, D, dtype=torch.float64)
    with torch.no_grad():
        rest = attention.eval()(latents)
        dropped = torch.stack([attention.train()(latents) for _ in range(4000)])
    assert (dropped[0] - rest).abs().max() > 1e-3
    torch.testing.assert_close(dropped.mean(0), rest, rtol=0, atol=0.03)
