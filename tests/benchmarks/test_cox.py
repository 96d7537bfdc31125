"""Cox, forward and backward, from ten thousand to a million patients: `pytest tests/benchmarks/test_cox.py`.

Not in the default run. A table at the end gives each time and its growth, which n log n keeps close to linear.
"""

import time

import pytest
import torch

from healnet.survival import cox_nll

SIZES = [10_000, 100_000, 1_000_000]
KINDS = ["distinct times", "tied times", "20 strata"]


def cohort(n, kind):
    generator = torch.Generator().manual_seed(0)
    days = torch.rand(n, generator=generator, dtype=torch.float64) * 3650
    return (
        torch.randn(n, generator=generator, requires_grad=True),
        days if kind == "distinct times" else days.round(),  # at a million patients, some 80 events a day
        torch.rand(n, generator=generator) < 0.3,
        torch.randint(20, (n,), generator=generator) if kind == "20 strata" else None,
    )


def step(eta, time, event, strata):
    eta.grad = None
    cox_nll(eta, time, event, ties="efron", strata=strata).backward()


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_forward_and_backward(benchmark, n, kind):
    arguments = cohort(n, kind)
    benchmark.group = kind
    benchmark.pedantic(step, arguments, rounds=5, warmup_rounds=1)
    assert arguments[0].grad.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_growth_is_close_to_linear(report, kind):
    seconds = []
    for n in SIZES:
        arguments = cohort(n, kind)
        step(*arguments)
        laps = []
        for _ in range(7):
            start = time.perf_counter()
            step(*arguments)
            laps.append(time.perf_counter() - start)
        seconds.append(min(laps))  # what the machine can do; the rest is what else ran on it
    report(
        f"cox_nll (Efron), forward and backward, {torch.get_num_threads()} threads; seconds, least of 7 runs",
        f"{kind:>15}: "
        + ", ".join(f"n = {n:,} {value:.4f}" for n, value in zip(SIZES, seconds, strict=True))
        + f"; 100 times the patients take {seconds[-1] / seconds[0]:.0f} times as long",
    )
    # n log n gives 150, n squared 10,000; small sizes pay for the overhead of each operation, large ones for memory.
    assert seconds[-1] / seconds[0] < 1000
