"""Cox against the definition written out, recorded numbers, lifelines and scikit-survival run here, and its laws."""

import itertools
import json
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import CoxPHFitter
from lifelines.datasets import load_rossi
from sksurv.linear_model.coxph import CoxPHOptimizer

from healnet.survival import SurvivalTarget, cox_nll

REFERENCE = json.loads((Path(__file__).parents[2] / "reference" / "survival.json").read_text())
TIES = ["efron", "breslow"]
constant = pytest.mark.filterwarnings("ignore:Cox's loss of this batch is constant")


@st.composite
def cohorts(draw, min_events=0):
    """Small cohorts on a coarse grid of times, so that events tie with events and with censored times."""
    n = draw(st.integers(max(min_events, 1), 12))
    column = lambda values: draw(st.lists(values, min_size=n, max_size=n))  # noqa: E731
    event = column(st.booleans())
    event[:min_events] = [True] * min_events
    return (
        torch.tensor(column(st.floats(-5, 5)), dtype=torch.float64),
        torch.tensor(column(st.integers(0, 4)), dtype=torch.float64),
        torch.tensor(event),
        torch.tensor(column(st.integers(0, 2))),
        torch.tensor(column(st.floats(0.1, 5)), dtype=torch.float64),
    )


def by_definition(eta, time, event, ties, strata, weights):
    """The sum over tied events, written out with loops and plain exponentials."""
    total = 0.0
    a = (weights * eta.exp()).numpy()
    for stratum in strata.unique():
        inside = (strata == stratum).numpy()
        for t in np.unique(time[inside & event.numpy()].numpy()):
            at_risk = inside & (time >= t).numpy()
            tied = inside & (time == t).numpy() & event.numpy()
            d, w = tied.sum(), weights[tied].sum().item()
            for step in range(d):
                left = a[at_risk].sum() - (step / d * a[tied].sum() if ties == "efron" else 0)
                total += w / d * np.log(left)
            total -= (weights * eta)[tied].sum().item()
    return total


def rossi(dtype=torch.float64):
    table = load_rossi()
    x = torch.tensor(table[["fin", "age", "race", "wexp", "mar", "paro", "prio"]].to_numpy(), dtype=dtype)
    return x, torch.tensor(table["week"].to_numpy()), torch.tensor(table["arrest"].to_numpy() == 1)


@pytest.mark.parametrize("ties", TIES)
def test_recorded_likelihoods(ties):
    case = REFERENCE["cox_ties"]
    eta = torch.tensor(case["log_hazard"], dtype=torch.float64)
    loss = cox_nll(eta, torch.tensor(case["time"]), torch.tensor(case["event"]), ties=ties, reduction="sum")
    assert loss.item() == pytest.approx(case["negative_log_likelihood_sum"][ties], abs=1e-6)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("ties", TIES)
def test_an_event_tied_with_a_censored_time_in_any_row_order(order, ties):
    case = REFERENCE["cox_event_tied_with_censored"]
    eta, time, event = (torch.tensor(case[name])[list(order)] for name in ("log_hazard", "time", "event"))
    loss = cox_nll(eta.double(), time, event, ties=ties, reduction="sum")
    assert loss.item() == pytest.approx(case["negative_log_likelihood_sum"], abs=1e-6)


@pytest.mark.parametrize("ties", TIES)
def test_recorded_rossi_likelihoods(ties):
    x, time, event = rossi()
    recorded = REFERENCE["rossi"]
    beta = torch.tensor(list(recorded["efron_coefficients"].values()), dtype=torch.float64)
    at_zero = cox_nll(torch.zeros(len(x), dtype=torch.float64), time, event, ties=ties, reduction="sum")
    at_beta = cox_nll(x @ beta, time, event, ties=ties, reduction="sum")
    assert -at_zero.item() == pytest.approx(recorded["log_likelihood_at_zero"][ties], abs=1e-6)
    assert -at_beta.item() == pytest.approx(recorded["log_likelihood_at_those"][ties], abs=1e-6)


def test_lbfgs_gives_lifelines_rossi_coefficients():
    x, time, event = rossi()
    fitted = CoxPHFitter().fit(load_rossi(), "week", "arrest")
    beta = torch.zeros(7, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [beta], max_iter=100, tolerance_grad=1e-9, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = cox_nll(x @ beta, time, event)
        loss.backward()
        return loss

    optimizer.step(closure)
    np.testing.assert_allclose(beta.detach().numpy(), fitted.params_.to_numpy(), atol=1e-4)
    recorded = list(REFERENCE["rossi"]["efron_coefficients"].values())
    np.testing.assert_allclose(beta.detach().numpy(), recorded, atol=1e-4)
    nll = cox_nll(x @ beta, time, event, reduction="sum").item()
    assert nll == pytest.approx(-fitted.log_likelihood_, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_lifelines_likelihood_with_weights_and_strata(seed):
    rng = np.random.default_rng(seed)
    n = 60
    table = pd.DataFrame(
        {
            "x": rng.normal(size=n),
            "time": rng.integers(1, 9, n),  # heavy ties
            "event": rng.random(n) < 0.6,
            "weight": rng.integers(1, 4, n).astype(float),
            "stratum": rng.integers(0, 3, n),
        }
    )
    fitted = CoxPHFitter().fit(table, "time", "event", weights_col="weight", strata=["stratum"])
    loss = cox_nll(
        torch.tensor(table["x"].to_numpy()) * fitted.params_["x"],
        table["time"].to_numpy(),
        table["event"].to_numpy(),
        strata=table["stratum"].to_numpy(),
        weights=table["weight"].to_numpy(),
        reduction="sum",
    )
    assert -loss.item() == pytest.approx(fitted.log_likelihood_, abs=1e-6)


@constant
@settings(max_examples=60, deadline=None)
@given(cohorts(), st.sampled_from(TIES))
def test_scikit_survival_likelihood(cohort, ties):
    eta, time, event, *_ = cohort
    theirs = CoxPHOptimizer(eta[:, None].numpy(), event.numpy(), time.numpy(), np.zeros(1), ties)
    loss = cox_nll(eta, time, event, ties=ties, reduction="sum")
    assert loss.item() == pytest.approx(theirs.nlog_likelihood(np.ones(1)) * len(eta), abs=1e-9)


@constant
@settings(max_examples=60, deadline=None)
@given(cohorts(), st.sampled_from(TIES))
def test_the_definition_with_strata_and_weights(cohort, ties):
    eta, time, event, strata, weights = cohort
    expected = by_definition(eta, time, event, ties, strata, weights)
    loss = cox_nll(eta, time, event, ties, strata, weights, reduction="sum")
    assert loss.item() == pytest.approx(expected, abs=1e-9)
    terms = cox_nll(eta, time, event, ties, strata, weights, reduction="none")
    assert terms.sum().item() == pytest.approx(expected, abs=1e-9)
    assert (terms[~event] == 0).all()
    if event.any():
        mean = cox_nll(eta, time, event, ties, strata, weights)
        assert mean.item() == pytest.approx(expected / weights[event].sum().item(), abs=1e-9)


@pytest.mark.parametrize("ties", TIES)
def test_events_at_one_time_in_two_strata_are_no_tie(ties):
    """The earliest event of the first stratum and the latest of the second, which lie side by side when sorted."""
    eta = torch.tensor([0.3, -1.0, 2.0, 0.5], dtype=torch.float64)
    time, event = torch.tensor([9.0, 5.0, 5.0, 2.0]), torch.tensor([False, True, True, True])
    loss = cox_nll(eta, time, event, ties, strata=torch.tensor([0, 0, 1, 1]), reduction="sum")
    # The first event of the second stratum is alone at risk, and adds nothing.
    expected = np.log1p(np.exp(0.3 - -1.0)) + np.log1p(np.exp(2.0 - 0.5))
    assert loss.item() == pytest.approx(expected, abs=1e-12)


@constant
@settings(max_examples=40, deadline=None)
@given(cohorts(min_events=1), st.sampled_from(TIES), st.randoms(use_true_random=False), st.floats(-200, 200))
def test_row_order_and_a_shift_change_nothing(cohort, ties, random, shift):
    eta, time, event, strata, weights = cohort
    rows = list(range(len(eta)))
    random.shuffle(rows)
    terms = cox_nll(eta, time, event, ties, strata, weights, reduction="none")
    shuffled = cox_nll(
        eta[rows] + shift, time[rows], event[rows], ties, strata[rows], weights[rows], reduction="none"
    )
    torch.testing.assert_close(shuffled, terms[rows], atol=1e-10, rtol=0)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("strata", [None, torch.tensor([0, 0, 1, 0, 0, 0, 1, 1, 0, 0, 1])])
@pytest.mark.parametrize("ties", TIES)
def test_the_gradient(ties, strata, reduction):
    generator = torch.Generator().manual_seed(5)
    eta = torch.randn(11, generator=generator, dtype=torch.float64, requires_grad=True)
    time = torch.tensor([1, 1, 2, 2, 2, 3, 3, 4, 5, 5, 6])
    event = torch.tensor([1, 1, 1, 0, 1, 0, 1, 1, 1, 1, 0])
    weights = torch.linspace(0.5, 2, 11)
    signs = (
        torch.linspace(-1, 2, 11) if reduction == "none" else 1.0
    )  # of terms, which may be pulled either way

    def loss(x):
        return (cox_nll(x, time, event, ties, strata, weights, reduction) * signs).sum()

    assert torch.autograd.gradcheck(loss, (eta,))


def test_a_second_derivative_is_refused():
    """It would lack the part through eta without a word."""
    eta = torch.tensor([0.3, -0.2], requires_grad=True)
    message = r"^expected create_graph=False: Cox's loss has no second derivative here$"
    with pytest.raises(RuntimeError, match=message):
        torch.autograd.grad(cox_nll(eta, [1.0, 2.0], [True, True]), eta, create_graph=True)


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("strata", [None, torch.tensor([0, 1, 0, 1, 1])])
@pytest.mark.parametrize("weights", [None, torch.linspace(0.5, 2, 5)])
def test_a_compiled_graph_is_not_broken(ties, strata, weights):
    def loss(x, time, event):
        return cox_nll(2 * x, time, event, ties, strata, weights)

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    time, event = torch.tensor([1.0, 2, 2, 1, 3]), torch.tensor([1, 1, 1, 0, 1])
    for b in (1, 2):  # another cohort of the same size is the same graph
        x = torch.randn(5, 1, generator=torch.Generator().manual_seed(b), requires_grad=True)
        found, expected = compiled(x, time * b, event), loss(x, time * b, event)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(*(torch.autograd.grad(value, x)[0] for value in (found, expected)))
    with pytest.raises(
        ValueError, match=r"^expected event to be bool or exactly 0 or 1, got 2 at position 0"
    ):
        compiled(x, time, 2 * event)
    with pytest.raises(ValueError, match=r"^expected time to be finite and >= 0, got nan at position 0"):
        compiled(x, time * torch.nan, event)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch's inductor needs a C++ compiler")
@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")
def test_inductor_compiles_it_behind_a_model():
    model = torch.nn.Linear(3, 1)

    def loss(x, time, event):
        return cox_nll(model(x), time, event)

    x, time, event = torch.randn(7, 3), torch.rand(7), torch.rand(7) < 0.7
    torch.testing.assert_close(torch.compile(loss, fullgraph=True)(x, time, event), loss(x, time, event))


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_hazards_of_a_hundred_and_a_thousand(ties, dtype):
    """The patient with 1000 fails last: each earlier event costs the whole difference, and no exponential overflows."""
    eta = torch.tensor([-100.0, 100.0, 1000.0], dtype=dtype, requires_grad=True)
    loss = cox_nll(eta, torch.tensor([1, 2, 3]), torch.ones(3, dtype=torch.bool), ties, reduction="sum")
    loss.backward()
    assert loss.item() == pytest.approx(1100 + 900)
    assert eta.grad.tolist() == pytest.approx([-1, -1, 2])


def test_float32_keeps_the_accuracy_of_float64_over_many_patients():
    """The running sum is in float64: in float32 log A would grow by less than its last place."""
    generator = torch.Generator().manual_seed(0)
    n = 200_000
    eta = torch.randn(n, generator=generator)
    time, event = (
        torch.rand(n, generator=generator, dtype=torch.float64),
        torch.rand(n, generator=generator) < 0.5,
    )
    single, double = cox_nll(eta, time, event), cox_nll(eta.double(), time, event)
    assert single.dtype == torch.float32
    assert double.dtype == torch.float64
    assert single.item() == pytest.approx(double.item(), rel=1e-7)


def test_times_that_differ_in_float64_only_are_not_tied():
    eta = torch.tensor([1.0, 0.0], requires_grad=True)
    time = torch.tensor([1.0 + 1e-12, 1.0], dtype=torch.float64)
    loss = cox_nll(eta, time, torch.tensor([True, True]), reduction="sum")
    assert loss.item() == pytest.approx(np.log1p(np.e), abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_under_autocast(dtype):
    x = torch.tensor([[0.5], [1.0], [2.0], [0.25]])
    layer = torch.nn.Linear(1, 1)
    time, event = torch.tensor([4, 3, 2, 1]), torch.tensor([True, True, False, True])
    with torch.autocast("cpu", dtype=dtype):
        eta = layer(x)
        loss = cox_nll(eta, time, event)
    assert eta.dtype == dtype
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(cox_nll(eta.double(), time, event).item(), rel=1e-6)
    loss.backward()
    assert layer.weight.grad.isfinite().all()


@constant
@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_without_events_a_zero_joined_to_the_graph(ties, reduction):
    eta = torch.tensor([[3.0], [1e30]], requires_grad=True)
    loss = cox_nll(eta, torch.tensor([1.0, 2.0]), torch.tensor([False, False]), ties, reduction=reduction)
    assert loss.sum().item() == 0
    loss.sum().backward()
    assert eta.grad.tolist() == [[0.0], [0.0]]


@pytest.mark.parametrize(("event", "strata"), [(True, None), (False, None), (True, [1])])
def test_a_batch_of_one_is_warned_of(event, strata):
    eta = torch.tensor([2.0], requires_grad=True)
    message = (
        f"Cox's loss of this batch is constant: none of its {int(event)} events has another of its 1 patients at risk"
        f"{' in its stratum' if strata else ''}; take larger batches, best the whole cohort, and "
        "healnet.survival.balanced_event_sampler for an event in each"
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$") as warned:
        loss = cox_nll(eta, torch.tensor([3.0]), torch.tensor([event]), strata=strata)
    assert [warning.filename for warning in warned] == [__file__]
    loss.backward()
    assert loss.item() == 0
    assert eta.grad.item() == 0


@pytest.mark.parametrize(
    ("time", "event", "strata", "pair"),
    [
        ([1, 2, 3], [0, 1, 0], None, True),
        ([1, 2, 3], [0, 0, 1], None, False),  # alone at risk
        ([1, 3, 3], [0, 0, 1], None, True),  # censored at the time of the event
        ([2, 2], [1, 1], None, True),
        ([1, 2, 3], [1, 1, 0], [0, 1, 2], False),
        ([1, 2, 3], [1, 1, 0], [0, 1, 1], True),
        ([1, 2, 3, 4], [0, 1, 0, 1], [7, 7, 9, 9], False),
    ],
)
def test_a_constant_loss_is_warned_of_and_no_other(time, event, strata, pair):
    eta = torch.linspace(-1, 1, len(time), dtype=torch.float64).requires_grad_()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        cox_nll(eta, time, event, strata=strata).backward()
    assert bool(warned) is not pair
    assert bool((eta.grad != 0).any()) is pair


def test_nobody():
    eta = torch.zeros(0, requires_grad=True)
    loss = cox_nll(eta, torch.zeros(0), torch.zeros(0, dtype=torch.bool), strata=torch.zeros(0))
    assert loss.item() == 0
    assert loss.requires_grad


def test_a_target_goes_in_as_it_is():
    target = SurvivalTarget([1, 2, 3], [True, True, False])
    loss = cox_nll(torch.zeros(3), target.time, target.event, reduction="sum")
    assert loss.item() == pytest.approx(np.log(3) + np.log(2), abs=1e-6)


REFUSED = [
    ({"ties": "exact"}, "expected ties 'efron' or 'breslow', got 'exact'"),
    ({"reduction": "max"}, "expected reduction 'mean', 'sum' or 'none', got 'max'"),
    ({"log_hazard": torch.zeros(2, 2)}, "expected log_hazard of shape (b,) or (b, 1), got (2, 2)"),
    (
        {"log_hazard": torch.zeros(2, dtype=torch.long)},
        "expected log_hazard of floating point, got torch.int64",
    ),
    ({"time": torch.zeros(3)}, "expected time of shape (2,) or (2, 1), one value per patient, got (3,)"),
    (
        {"time": torch.tensor([1.0, torch.nan])},
        "expected time to be finite and >= 0, got nan at position 1 (1 of 2 are wrong)",
    ),
    (
        {"event": torch.tensor([0, 2])},
        "expected event to be bool or exactly 0 or 1, got 2 at position 1 (1 of 2 are wrong)",
    ),
    ({"strata": ["I", "II"]}, "expected strata of numbers, got <U2"),
    (
        {"strata": torch.zeros(2, 2)},
        "expected strata of shape (2,) or (2, 1), one value per patient, got (2, 2)",
    ),
    (
        {"strata": torch.tensor([0.0, torch.nan])},
        "expected strata of every patient to be a number, got nan at position 1 (1 of 2 are wrong)",
    ),
    (
        {"weights": torch.tensor([1.0, 0.0])},
        "expected finite weights > 0 (leave a patient out instead of weighing them 0), "
        "got 0 at position 1 (1 of 2 are wrong)",
    ),
    (
        {"weights": torch.tensor([1.0, torch.inf])},
        "expected finite weights > 0 (leave a patient out instead of weighing them 0), "
        "got inf at position 1 (1 of 2 are wrong)",
    ),
]


@pytest.mark.parametrize(("wrong", "message"), REFUSED)
def test_refused(wrong, message):
    right = {
        "log_hazard": torch.zeros(2),
        "time": torch.tensor([1.0, 2.0]),
        "event": torch.tensor([True, False]),
    }
    with pytest.raises(ValueError) as error:  # noqa: PT011, the whole message is compared
        cox_nll(**(right | wrong))
    assert str(error.value) == message
