"""Rules that every function keeps: (n, 1) is (n,), outcomes must be there, a compiled graph is whole."""

import numpy as np
import pytest
import torch

from healnet.survival import (
    BreslowBaseline,
    CoxAccumulator,
    SurvivalTarget,
    TimeBins,
    balanced_event_sampler,
    calibration_groups,
    compare,
    concordance,
    cox_nll,
    d_calibration,
    discrete_cross_entropy,
    discrete_nll,
    evaluate,
    logrank_p,
    ranking_loss,
    weibull_nll,
)

TIME = np.array([3.0, 1.0, 4.0, 1.5, 5.0, 9.0])
EVENT = np.array([True, True, False, True, False, True])
TARGET = SurvivalTarget(TIME, EVENT)
RISK = np.array([0.3, 0.9, 0.1, 0.5, 0.2, 0.8])
LOGITS = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 0, 1, 2])
LOSSES = {
    "cox": lambda x, time, event: cox_nll(x[:, :1], time, event),
    "discrete": lambda x, time, event: discrete_nll(x, time, event),
    "competing": lambda x, time, event: discrete_nll(x.view(6, 1, 3), time, event),
    "cross-entropy": lambda x, time, event: discrete_cross_entropy(x, time, event),
    "weibull": lambda x, time, event: weibull_nll(x[:, :2], time, event),
    "ranking": lambda x, time, event: ranking_loss(x[:, 0], time, event),
}


@pytest.mark.parametrize(
    "use",
    [
        lambda shape: concordance(RISK.reshape(shape), TARGET),
        lambda shape: compare(RISK.reshape(shape), RISK.reshape(shape)[::-1], TARGET, bootstrap=5),
        lambda shape: evaluate(RISK.reshape(shape), TARGET, TARGET)["value"].tolist(),
        lambda shape: logrank_p((RISK > 0.4).reshape(shape), TARGET),
        lambda shape: logrank_p(torch.tensor(RISK > 0.4).reshape(shape), TARGET),
        lambda shape: d_calibration(RISK.reshape(shape), TARGET).counts.tolist(),
        lambda shape: calibration_groups(RISK.reshape(shape), TARGET, 3.0, 2).predicted.tolist(),
        lambda shape: BreslowBaseline.fit(RISK.reshape(shape), TARGET).cumulative_hazard.tolist(),
        lambda shape: SurvivalTarget(TIME.reshape(shape), EVENT.reshape(shape)),
        lambda shape: SurvivalTarget.from_censorship(TIME.reshape(shape), ~EVENT.reshape(shape)),
        lambda shape: TimeBins.fit(TIME.reshape(shape), EVENT.reshape(shape), num_bins=2),
        lambda shape: [len(b) for b in balanced_event_sampler(EVENT.reshape(shape), 3)],
        *(
            lambda shape, loss=loss, label=label: loss(
                LOGITS,
                (Y if label in ("discrete", "competing", "cross-entropy") else torch.tensor(TIME)).reshape(
                    shape
                ),
                torch.tensor(EVENT).int().reshape(shape),
            ).item()
            for label, loss in LOSSES.items()
        ),
    ],
)
def test_one_value_per_patient_may_be_a_column(use):
    result = use((6, 1))
    assert result == use((6,))
    assert not np.isnan(np.asarray(result, dtype=float) if isinstance(result, (float, list)) else 0).all()


@pytest.mark.parametrize("missing", ["time", "event"])
@pytest.mark.parametrize("label", LOSSES)
def test_a_batch_without_outcomes_is_refused_by_name(label, missing):
    given = {
        "time": Y if label in ("discrete", "competing", "cross-entropy") else TIME,
        "event": EVENT.astype(int),
    }
    name = "y" if missing == "time" and label in ("discrete", "competing", "cross-entropy") else missing
    message = (
        rf"^expected {name}, one value per patient, got None: a survival loss needs patients with outcomes$"
    )
    with pytest.raises(ValueError, match=message):
        LOSSES[label](LOGITS, **(given | {missing: None}))
    if label == "cox":
        with pytest.raises(ValueError, match=message):
            CoxAccumulator().add(LOGITS[:, 0], **(given | {missing: None}))


@pytest.mark.parametrize("label", LOSSES)
def test_a_compiled_graph_is_whole_and_still_checks_labels(label):
    loss = LOSSES[label]
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    time = Y if label in ("discrete", "competing", "cross-entropy") else torch.tensor(TIME)
    event = torch.tensor(EVENT).int()
    x = LOGITS.clone().requires_grad_()
    found, expected = compiled(x, time, event), loss(x, time, event)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, x)[0] for value in (found, expected)))
    with pytest.raises(ValueError, match=r"^expected event .* got 3 at position 0 \(4 of 6 are wrong\)"):
        compiled(x, time, 3 * event)
