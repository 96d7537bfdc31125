"""Each module is its function with the settings it was given."""

import copy

import pytest
import torch

from healnet.survival import (
    CoxNLL,
    DiscreteCrossEntropy,
    DiscreteNLL,
    RankingLoss,
    WeibullNLL,
    cox_nll,
    discrete_cross_entropy,
    discrete_nll,
    ranking_loss,
    weibull_nll,
)

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(5, 3, generator=GENERATOR)
RISK = LOGITS[:, 0]
PAIR = LOGITS[:, :2]
Y = torch.tensor([0, 1, 2, 1, 0])
TIME = torch.tensor([1.0, 2.0, 3.0, 2.0, 1.0])
EVENT = torch.tensor([True, False, True, True, False])
STRATA = torch.tensor([0, 0, 0, 1, 1])
W = torch.tensor([1.0, 2.0, 3.0])
CASES = [
    (DiscreteNLL(), (LOGITS, Y, EVENT), discrete_nll(LOGITS, Y, EVENT)),
    (DiscreteNLL(0.4, W, "none"), (LOGITS, Y, EVENT), discrete_nll(LOGITS, Y, EVENT, 0.4, W, "none")),
    (DiscreteCrossEntropy(), (LOGITS, Y, EVENT), discrete_cross_entropy(LOGITS, Y, EVENT)),
    (
        DiscreteCrossEntropy(0.15, "sum"),
        (LOGITS, Y, EVENT),
        discrete_cross_entropy(LOGITS, Y, EVENT, 0.15, "sum"),
    ),
    (CoxNLL(), (RISK, TIME, EVENT), cox_nll(RISK, TIME, EVENT)),
    (
        CoxNLL("breslow", "sum"),
        (RISK, TIME, EVENT, STRATA, TIME),
        cox_nll(RISK, TIME, EVENT, "breslow", STRATA, TIME, "sum"),
    ),
    (RankingLoss(), (RISK, TIME, EVENT), ranking_loss(RISK, TIME, EVENT)),
    (RankingLoss(0.3, "sum"), (LOGITS, TIME, EVENT, Y), ranking_loss(LOGITS, TIME, EVENT, Y, 0.3, "sum")),
    (WeibullNLL(), (PAIR, TIME, EVENT), weibull_nll(PAIR, TIME, EVENT)),
    (WeibullNLL("none"), (PAIR, TIME, EVENT), weibull_nll(PAIR, TIME, EVENT, "none")),
]


@pytest.mark.parametrize(("module", "arguments", "expected"), CASES, ids=lambda value: repr(value)[:40])
def test_the_module_is_its_function(module, arguments, expected):
    torch.testing.assert_close(copy.deepcopy(module)(*arguments), expected, rtol=0, atol=0)


def test_bin_weights_travel_with_the_state():
    module = DiscreteNLL(bin_weights=[1.0, 2.0, 3.0])
    other = DiscreteNLL(bin_weights=torch.ones(3))
    other.load_state_dict(module.state_dict())
    torch.testing.assert_close(other(LOGITS, Y, EVENT), discrete_nll(LOGITS, Y, EVENT, bin_weights=W))


def test_they_print_their_settings():
    assert [repr(module) for module, *_ in CASES] == [
        "DiscreteNLL(alpha=0.0, reduction='mean')",
        "DiscreteNLL(alpha=0.4, reduction='none')",
        "DiscreteCrossEntropy(alpha=0.0, reduction='mean')",
        "DiscreteCrossEntropy(alpha=0.15, reduction='sum')",
        "CoxNLL(ties='efron', reduction='mean')",
        "CoxNLL(ties='breslow', reduction='sum')",
        "RankingLoss(sigma=None, reduction='mean')",
        "RankingLoss(sigma=0.3, reduction='sum')",
        "WeibullNLL(reduction='mean')",
        "WeibullNLL(reduction='none')",
    ]
