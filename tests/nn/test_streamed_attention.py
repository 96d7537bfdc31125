import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from healnet.nn.streamed_attention import streamed_attention


def plain(queries, tokens, mask):
    """Softmax attention by the textbook; zeros where nothing is real."""
    scores = queries @ tokens.transpose(1, 2)
    scores = scores.masked_fill(~mask[:, None], -torch.inf)
    seen = mask.any()
    weights = scores.softmax(-1) if seen else torch.zeros_like(scores)
    return weights @ tokens, scores.logsumexp(-1)


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), max_size=5), st.integers(0, 2**16), st.booleans())
def test_any_split_gives_the_attention_and_gradients_of_the_whole(lengths, seed, masked):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    raw, weight, queries = draw(1, sum(lengths), 3), draw(3, 3), 3 * draw(1, 7, 3)
    mask = torch.rand(1, sum(lengths), generator=generator) < (0.5 if masked else 2.0)
    slope = draw(1, 7, 3)
    grads = []
    for streamed in (True, False):
        q, w = queries.clone().requires_grad_(), weight.clone().requires_grad_()

        def walk(w=w):
            for part, shown in zip(raw.split(lengths, 1), mask.split(lengths, 1), strict=True):
                yield part @ w, shown if masked else None

        if streamed:
            output, mass, lse = streamed_attention(q, walk, [w])
            assert torch.allclose(mass, mask.any().to(mass).expand_as(mass), rtol=0, atol=1e-12)
        else:
            output, lse = plain(q, raw @ w, mask)
        grads.append((output, lse, *torch.autograd.grad((output * slope).sum(), [q, w], allow_unused=True)))
    for ours, theirs in zip(*grads, strict=True):
        theirs = torch.zeros_like(ours) if theirs is None else theirs
        ours = torch.zeros_like(theirs) if ours is None else ours
        assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-10)


def test_the_gradient_of_the_log_sum_exp_is_that_of_finite_differences():
    tokens = torch.randn(1, 11, 3, dtype=torch.float64)
    queries = torch.randn(1, 5, 3, dtype=torch.float64, requires_grad=True)

    def both(q):
        output, _, lse = streamed_attention(q, lambda: ((part, None) for part in tokens.split(4, 1)))
        return output, lse

    assert torch.autograd.gradcheck(both, [queries])


def test_dropped_tokens_are_the_same_in_both_passes_and_others_in_the_next_call():
    tokens = torch.randn(1, 40, 3, dtype=torch.float64)
    queries = torch.randn(1, 5, 3, dtype=torch.float64, requires_grad=True)

    def attend(q):
        torch.manual_seed(4)  # finite differences need the same tokens every time
        output, mass, _ = streamed_attention(
            q, lambda: ((part, None) for part in tokens.split(7, 1)), dropout=0.5
        )
        return output, mass

    assert torch.autograd.gradcheck(attend, [queries])
    first = attend(queries)[0]
    again = streamed_attention(queries, lambda: iter([(tokens, None)]), dropout=0.5)[0]
    assert not torch.allclose(first, again)


def test_dropping_tokens_keeps_the_expectation():
    torch.manual_seed(0)
    tokens, queries = torch.randn(1, 30, 2, dtype=torch.float64), torch.zeros(1, 1, 2, dtype=torch.float64)
    draws = [streamed_attention(queries, lambda: iter([(tokens, None)]), dropout=0.3) for _ in range(4000)]
    output = torch.stack([output for output, _, _ in draws]).mean(0)
    mass = torch.stack([mass for _, mass, _ in draws])
    error = tokens.std() * (0.3 / 0.7 / 30 / 4000) ** 0.5
    assert torch.allclose(output, tokens.mean(1, keepdim=True), rtol=0, atol=float(5 * error))
    assert abs(mass.mean().item() - 1) < 5 * (0.3 / 0.7 / 30 / 4000) ** 0.5
    assert mass.std() > 0.05


def test_pieces_drop_tokens_independently():
    pieces = torch.ones(1, 40, 1), -torch.ones(1, 40, 1)
    torch.manual_seed(0)
    output, _, _ = streamed_attention(torch.zeros(1, 1, 1), lambda: ((x, None) for x in pieces), dropout=0.5)
    assert output.abs().item() > 0.01  # zero if the same ones of both pieces were dropped


def test_a_second_derivative_is_refused():
    queries = torch.randn(1, 5, 3, dtype=torch.float64, requires_grad=True)
    output, _, _ = streamed_attention(
        queries, lambda: iter([(torch.randn(1, 4, 3, dtype=torch.float64), None)])
    )
    (grad,) = torch.autograd.grad(output.pow(2).sum(), queries, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()
