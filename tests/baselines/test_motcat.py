import sys

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from healnet.baselines import TransportCoAttention


def divergence(p, q):
    return (p * np.log(p / q) - p + q).sum()


def minimized(cost, entropy, marginal):
    """The plan by its definition, with a general minimizer over log P."""
    g, n = cost.shape

    def objective(log_plan):
        plan = np.exp(log_plan).reshape(g, n)
        marginals = divergence(plan.sum(1), np.full(g, 1 / g)) + divergence(plan.sum(0), np.full(n, 1 / n))
        return (plan * cost).sum() + entropy * (plan * (np.log(plan) - 1)).sum() + marginal * marginals

    found = minimize(objective, np.full(g * n, -3.0), method="BFGS", options={"gtol": 1e-9, "maxiter": 5000})
    return np.exp(found.x).reshape(g, n)


def example(n=7):
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(3, 4, generator=generator, dtype=torch.float64),
        torch.randn(n, 4, generator=generator, dtype=torch.float64),
    )


@pytest.mark.parametrize(("entropy", "marginal"), [(0.1, 0.5), (0.05, 2.0), (1.0, 0.1)])
def test_the_plan_minimizes_its_definition(entropy, marginal):
    guides, bag = example()
    cost = ((guides[:, None] - bag[None]) ** 2).sum(2).numpy()
    expected = minimized(cost / cost.max(), entropy, marginal)
    got = TransportCoAttention(entropy, marginal).plan(guides, bag)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


def test_heavy_marginals_make_the_plan_balanced():
    guides, bag = example()
    plan = TransportCoAttention(marginal=1e4).plan(guides, bag)
    np.testing.assert_allclose(plan.sum(1), np.full(3, 1 / 3), atol=1e-3)
    np.testing.assert_allclose(plan.sum(0), np.full(7, 1 / 7), atol=1e-3)


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
    torch.testing.assert_close(plan, torch.full((2, 3), p), rtol=0, atol=1e-5)


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
