import sys

import numpy as np
import pytest
import torch

from healnet.baselines import TransportCoAttention


def example(n=7):
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(3, 4, generator=generator, dtype=torch.float64),
        torch.randn(n, 4, generator=generator, dtype=torch.float64),
    )


def divergence(p, q):
    return (p * (p / q).log() - p + q).sum()


@pytest.mark.parametrize(("entropy", "marginal"), [(0.1, 0.5), (0.05, 2.0), (1.0, 0.1), (0.1, 1e4)])
def test_the_plan_minimizes_its_definition(entropy, marginal):
    """The definition is strictly convex: its minimum is where its gradient is zero."""
    guides, bag = example()
    cost = ((guides[:, None] - bag[None]) ** 2).sum(2)
    plan = TransportCoAttention(entropy, marginal).plan(guides, bag).requires_grad_()
    rows, columns = plan.new_full((3,), 1 / 3), plan.new_full((7,), 1 / 7)
    marginals = divergence(plan.sum(1), rows) + divergence(plan.sum(0), columns)
    objective = (plan * cost / cost.max()).sum() + entropy * (plan * (plan.log() - 1)).sum()
    (objective + marginal * marginals).backward()
    # A share of 1e-12 in P moves each of its three logarithms by as much; ten times that where convergence is slow.
    assert plan.grad.abs().max() < 1e-11 * (entropy + 2 * marginal)


def test_heavy_marginals_make_the_plan_balanced():
    guides, bag = example()
    plan = TransportCoAttention(marginal=1e4).plan(guides, bag)
    # What keeps the marginals from their values is the cost, at most 1, over τ.
    np.testing.assert_allclose(plan.sum(1), np.full(3, 1 / 3), rtol=1e-4)
    np.testing.assert_allclose(plan.sum(0), np.full(7, 1 / 7), rtol=1e-4)


def test_each_guide_gets_what_is_transported_to_it():
    guides, bag = example()
    layer = TransportCoAttention()
    real = torch.tensor([True, True, False, True, True, True, True])
    got = layer(guides[None], torch.tensor([[True, False, True]]), bag[None], real[None])[0]
    expected = layer.plan(guides[[0, 2]], bag[real]) @ bag[real]
    torch.testing.assert_close(got[[0, 2]], expected)
    assert (got[1] == 0).all()


def test_parts_of_a_bag_have_plans_of_their_own():
    guides, bag = example(5)
    everyone = torch.ones(1, 3, dtype=torch.bool), torch.ones(1, 5, dtype=torch.bool)
    whole, parts = TransportCoAttention(), TransportCoAttention(micro_batch=3)
    got = parts(guides[None], everyone[0], bag[None], everyone[1])[0]
    first, second = whole.plan(guides, bag[:3]) @ bag[:3], whole.plan(guides, bag[3:]) @ bag[3:]
    torch.testing.assert_close(got, 0.6 * first + 0.4 * second)


def test_the_plan_is_a_constant_of_the_backward_pass():
    guides, bag = example()
    bag.requires_grad_()
    guides.requires_grad_()
    layer = TransportCoAttention()
    layer(
        guides[None], torch.ones(1, 3, dtype=torch.bool), bag[None], torch.ones(1, 7, dtype=torch.bool)
    ).sum().backward()
    torch.testing.assert_close(bag.grad, layer.plan(guides, bag).sum(0)[:, None].expand(7, 4))
    assert guides.grad is None


def test_equal_tokens_share_alike():
    """Without cost all of P is one number p: ε log p + τ log(3 p / (1/2)) + τ log(2 p / (1/3)) = 0."""
    entropy, marginal = 0.1, 0.5
    plan = TransportCoAttention(entropy, marginal).plan(torch.ones(2, 4), torch.ones(3, 4))
    p = (1 / 36) ** (marginal / (entropy + 2 * marginal))
    torch.testing.assert_close(plan, torch.full((2, 3), p), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"entropy": 0.0}, r"^expected entropy and marginal above 0, got 0\.0 and 0\.5$"),
        ({"marginal": -1.0}, r"^expected entropy and marginal above 0, got 0\.1 and -1\.0$"),
        ({"micro_batch": 0}, r"^expected micro_batch of at least 1 or None, got 0$"),
    ],
)
def test_arguments_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        TransportCoAttention(**arguments)


def test_without_pot_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(ImportError, match=r"^optimal transport needs POT: pip install healnet\[transport\]$"):
        TransportCoAttention()
