import math

import pytest
import torch

from healnet.nn import chunked_attention as module
from healnet.nn.chunked_attention import chunked_attention

B, R, N, C, V = 3, 5, 11, 7, 2


@pytest.fixture(params=["kept", "fused", "chunked"])
def path(request, monkeypatch):
    """Every way through the forward and backward pass; chunks of 64 tokens at most."""
    if request.param != "kept":
        monkeypatch.setattr(module, "KEEP_ELEMENTS", 0)
        monkeypatch.setattr(module, "CHUNK_ELEMENTS", 1)
    if request.param == "chunked":
        monkeypatch.setattr(module, "flash_attention_cpu", lambda *_: None)
    return request.param


def explicit(queries, keys, values, mask=None, token_weights=None):
    scores = queries @ keys.transpose(1, 2)
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None], -math.inf)
    weights = scores.softmax(-1)
    if token_weights is not None:
        weights = weights * token_weights[:, None]
    return weights @ values, weights.sum(-1), scores.logsumexp(-1)


def example(n=N, c=C, v=None, seed=0, mask=False):
    generator = torch.Generator().manual_seed(seed)
    new = {"generator": generator, "dtype": torch.float64}
    queries, keys = torch.randn(B, R, c, **new), torch.randn(B, n, c, **new)
    values = keys if v is None else torch.randn(B, n, v, **new)
    real = None
    if mask:
        real = torch.rand(B, n, generator=generator) < 0.6
        real[:, 0] = True
    return queries, keys, values, real


def test_by_hand(path):
    queries, keys = torch.tensor([[[1.0]]]), torch.tensor([[[0.0], [1.0]]])
    output, mass, lse = chunked_attention(queries, keys, keys)
    e = math.e
    assert output.item() == pytest.approx(e / (1 + e), rel=1e-6)
    assert mass.item() == 1.0
    assert lse.item() == pytest.approx(math.log(1 + e), rel=1e-6)


LAYOUTS = {
    "contiguous": lambda n, c, new: torch.randn(B, n, c, **new),
    "channels first": lambda n, c, new: torch.randn(B, c, n, **new).transpose(1, 2),
    "expanded": lambda n, c, new: torch.randn(B, n, 1, **new).expand(B, n, c),
    "every second": lambda n, c, new: torch.randn(B, n, 2 * c, **new)[..., ::2],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("masked", [False, True])
def test_any_layout_in_memory_gives_the_same(path, layout, masked):
    new = {"generator": torch.Generator().manual_seed(1), "dtype": torch.float64}
    queries, keys, values = (LAYOUTS[layout](n, C, new) for n in (R, 203, 203))
    mask = example(n=203, mask=masked)[3]
    inputs = [x.detach().requires_grad_() for x in (queries, keys, values)]
    output, _, lse = chunked_attention(*inputs, mask)
    expected, _, expected_lse = explicit(*inputs, mask)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(lse, expected_lse, rtol=0, atol=1e-12)
    slope = torch.randn(output.shape, **new)
    found, wanted = (torch.autograd.grad((x * slope).sum(), inputs) for x in (output, expected))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-11)


def test_channels_first_at_the_size_from_which_the_fused_kernel_is_taken():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(1, 16, 9000, generator=generator).transpose(1, 2)
    queries = torch.randn(1, 500, 16, generator=generator)
    assert queries.shape[1] * tokens.shape[1] > module.KEEP_ELEMENTS
    torch.testing.assert_close(
        chunked_attention(queries, tokens, tokens).output,
        explicit(*(x.double() for x in (queries, tokens, tokens)))[0].float(),
        rtol=0,
        atol=1e-5,
    )


@pytest.mark.parametrize("n", [1, 64, 203])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("v", [None, V])
@pytest.mark.parametrize("dropped", [False, True])
def test_agrees_with_the_explicit_softmax(path, n, masked, v, dropped):
    queries, keys, values, mask = example(n=n, v=v, mask=masked)
    weights = (torch.arange(B * n).view(B, n) % 3 != 0).double() * 1.5 if dropped else None
    inputs = [queries.requires_grad_(), keys.requires_grad_()] + ([values.requires_grad_()] if v else [])
    got = chunked_attention(queries, keys, values, mask, weights)
    expected = explicit(queries, keys, values, mask, weights)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    slopes = [torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view_as(x) for x in expected]
    ours = torch.autograd.grad(got, inputs, slopes)
    theirs = torch.autograd.grad(expected, inputs, slopes)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


def test_rows_without_a_real_token_are_zero_with_zero_gradients(path):
    queries, keys, _, mask = example(mask=True)
    mask[1] = False
    keys = keys.masked_fill(~mask[..., None], 0)
    queries.requires_grad_()
    output, mass, lse = chunked_attention(queries, keys, keys, mask)
    assert (output[1] == 0).all()
    assert (mass[1] == 0).all()
    assert (lse[1] == -math.inf).all()
    output.square().sum().backward()
    assert (queries.grad[1] == 0).all()
    assert torch.isfinite(queries.grad).all()
    assert (queries.grad[0] != 0).any()


def test_no_tokens_at_all(path):
    queries = torch.randn(2, 3, 5, requires_grad=True)
    output, mass, lse = chunked_attention(queries, torch.zeros(2, 0, 5), torch.zeros(2, 0, 5))
    assert output.tolist() == torch.zeros(2, 3, 5).tolist()
    assert mass.tolist() == torch.zeros(2, 3).tolist()
    assert (lse == -math.inf).all()
    output.sum().backward()
    assert (queries.grad == 0).all()


def test_gradients_agree_with_finite_differences(path):
    queries, keys, values, mask = example(n=4, c=2, v=3, mask=True)
    weights = torch.tensor([1.5, 0.0, 1.5, 1.5], dtype=torch.float64).expand(B, 4)
    inputs = [x.requires_grad_() for x in (queries, keys, values)]
    assert torch.autograd.gradcheck(lambda q, k, v: chunked_attention(q, k, v, mask, weights), inputs)
    assert torch.autograd.gradgradcheck(lambda q, k, v: chunked_attention(q, k, v, mask)[0], inputs)


def test_keys_that_are_the_values_get_their_gradient_once_under_create_graph(path):
    """The derivative with a graph is the derivative without: each share of one tensor counts once."""
    queries, keys, _, mask = example(mask=True)
    mask[1] = False
    inputs = (queries.requires_grad_(), keys.requires_grad_())
    output, _, lse = chunked_attention(queries, keys, keys, mask)
    quantity = output.square().sum() + lse.masked_fill(torch.isneginf(lse), 0).sum()
    once = torch.autograd.grad(quantity, inputs, retain_graph=True)
    again = torch.autograd.grad(quantity, inputs, create_graph=True)
    assert once[1].abs().max() > 0.1
    torch.testing.assert_close(again, once, rtol=0, atol=1e-12)


def test_no_patients_at_all(path):
    queries = torch.zeros(0, 3, 5, requires_grad=True)
    output, mass, lse = chunked_attention(queries, torch.zeros(0, 7, 5), torch.zeros(0, 7, 5))
    assert (output.shape, mass.shape, lse.shape) == ((0, 3, 5), (0, 3), (0, 3))
    output.sum().backward()
    assert queries.grad.shape == (0, 3, 5)


def test_function_transforms_take_the_plain_way():
    queries, keys, values, mask = example(v=V, mask=True)

    def total(q, k, v, m):
        output, _, lse = chunked_attention(q, k, v, m)
        return output.square().sum() + lse.sum()

    def of_one(q, k, v, m):
        return total(q[None], k[None], v[None], m[None])

    expected = torch.autograd.grad(total(queries.requires_grad_(), keys, values, mask), queries)[0]
    per_patient = torch.vmap(torch.func.grad(of_one))(queries.detach(), keys, values, mask)
    torch.testing.assert_close(per_patient, expected, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_compiled_rows_without_a_real_token_are_zero():
    queries, keys, values, mask = example(v=V, mask=True)
    mask[1] = False
    queries.requires_grad_()

    def attend(q, k, v, m):
        return chunked_attention(q, k, v, m).output

    output = torch.compile(attend, backend="eager", fullgraph=True)(queries, keys, values, mask)
    expected = attend(queries, keys, values, mask)
    assert (output[1] == 0).all()
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)
    slopes = [torch.autograd.grad(x.square().sum(), queries)[0] for x in (output, expected)]
    torch.testing.assert_close(slopes[0], slopes[1], rtol=0, atol=1e-12)


def test_large_scores_stay_finite(path):
    queries, keys, values, _ = example(n=100)
    queries = (1000 * queries).requires_grad_()
    output, _, lse = chunked_attention(queries, keys, values)
    expected, _, expected_lse = explicit(queries, keys, values)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(lse, expected_lse, rtol=1e-12, atol=0)
    output.sum().backward()
    assert torch.isfinite(queries.grad).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_accumulates_in_float32(path, dtype):
    queries, keys, _, _ = example(n=1000)
    queries = queries.to(dtype).requires_grad_()
    keys = keys.to(dtype)
    output, _, lse = chunked_attention(queries, keys, keys)
    assert output.dtype == dtype
    assert lse.dtype == torch.float32
    exact = queries.detach().double().requires_grad_()
    expected, _, expected_lse = explicit(exact, keys.double(), keys.double())
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=0.02)
    torch.testing.assert_close(lse.double(), expected_lse, rtol=0, atol=0.03)
    output.float().square().sum().backward()
    expected.square().sum().backward()
    largest = exact.grad.abs().max().item()
    torch.testing.assert_close(queries.grad.double(), exact.grad, rtol=0, atol=0.08 * largest)


def test_data_tokens_are_not_differentiated(path, monkeypatch):
    """Keys and values that need no gradient cost no product in the backward pass."""
    queries, keys, _, _ = example(n=200)
    queries.requires_grad_()
    output = chunked_attention(queries, keys, keys)[0]
    seen = []
    backward = module.differentiate
    monkeypatch.setattr(
        module,
        "differentiate",
        lambda saved, slopes, needs, whole: seen.append(needs) or backward(saved, slopes, needs, whole),
    )
    output.sum().backward()
    assert seen == [(True, False, False)]
    assert keys.grad is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_gpu_gives_the_same(path, dtype):
    queries, keys, _, mask = example(n=500, mask=True)
    mask[1] = False
    results = []
    for device, kind in (("cpu", torch.float64), ("cuda", dtype)):
        q = queries.to(device, kind).requires_grad_()
        output, _, lse = chunked_attention(q, *[keys.to(device, kind)] * 2, mask.to(device))
        (gradient,) = torch.autograd.grad(output.float().square().sum(), q)
        results.append([x.double().cpu() for x in (output, lse[mask.any(1)], gradient)])
    atol = 1e-10 if dtype == torch.float64 else 0.05
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=atol * max(1.0, float(expected.abs().max())))
