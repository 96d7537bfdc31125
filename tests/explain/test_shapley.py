import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from healnet import HEALNet
from healnet._plotting import LOWERS, RAISES
from healnet.encoders import OmicEncoder
from healnet.explain import contribution_bars, shapley_modalities, shapley_values
from healnet.explain._model import default_risk, evaluating, risk_of


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(0, 2**31))
def test_values_are_the_mean_over_all_orders(players, seed):
    values = torch.randn(2**players, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = torch.zeros(2, players, dtype=torch.float64)
    for order in itertools.permutations(range(players)):
        coalition = 0
        for player in order:
            expected[:, player] += values[coalition | 1 << player] - values[coalition]
            coalition |= 1 << player
    torch.testing.assert_close(shapley_values(values), expected / math.factorial(players))


def test_contributions_are_complete(model, inputs):
    shares = shapley_modalities(model, inputs)
    torch.testing.assert_close(shares.values.sum(dim=1), shares.risk - shares.nothing, atol=1e-12, rtol=0)
    with evaluating(model):
        torch.testing.assert_close(shares.risk, risk_of(model, inputs, default_risk))
        torch.testing.assert_close(shares.nothing, risk_of(model, {}, default_risk).expand(3))
    assert shares.names == ("rna", "protein", "slide")


def test_a_lacking_modality_contributes_exactly_nothing(model, inputs):
    shares = shapley_modalities(model, inputs)
    assert shares.values[1, 1] == 0
    assert shares.values[2, 2] == 0
    assert shares.has.tolist() == [[True, True, True], [True, False, True], [True, True, False]]
    assert shares.values[shares.has].abs().min() > 0


def test_the_cohort_mean_is_over_those_who_have_it(model, inputs):
    shares = shapley_modalities(model, inputs)
    torch.testing.assert_close(shares.mean()[1], shares.values[[0, 2], 1].mean())
    torch.testing.assert_close(shares.mean_size()[2], shares.values[[0, 1], 2].abs().mean())
    torch.testing.assert_close(shares.mean()[0], shares.values[:, 0].mean())


def test_eight_modalities_are_exact_and_nine_refused():
    torch.manual_seed(0)
    names = [f"m{i}" for i in range(9)]
    small = {"depth": 1, "num_latents": 2, "latent_dim": 4, "num_heads": 1, "head_dim": 2}
    model = HEALNet({name: OmicEncoder(2, token_dim=3) for name in names}, output="cox", **small).double()
    inputs = {name: torch.randn(2, 2, dtype=torch.float64) for name in names}
    eight = shapley_modalities(model, {name: inputs[name] for name in names[:8]})
    torch.testing.assert_close(eight.values.sum(dim=1), eight.risk - eight.nothing, atol=1e-12, rtol=0)
    message = r"^exact Shapley values are for up to 8 modalities \(2\^k passes\), got 9: \['m0', .*'m8'\]$"
    with pytest.raises(ValueError, match=message):
        shapley_modalities(model, inputs)


def test_a_number_of_coalitions_that_is_no_power_of_two_is_refused():
    with pytest.raises(ValueError, match=r"^expected the values of all 2\^k coalitions, got 3$"):
        shapley_values(torch.zeros(3))


def test_bars_of_one_patient_have_length_side_and_colour():
    ax = contribution_bars(["a", "b", "c"], [0.5, -0.25, 0.0], has=[True, True, False])
    from matplotlib.colors import to_hex

    assert [bar.get_width() for bar in ax.patches] == [0.5, -0.25]
    assert [to_hex(bar.get_facecolor()).upper() for bar in ax.patches] == [RAISES, LOWERS]
    assert [text.get_text() for text in ax.texts] == ["absent"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b", "c"]


def test_bars_of_a_cohort_are_means_over_those_who_have_it_with_a_dot_each():
    values = np.array([[1.0, 2.0], [3.0, 50.0]])
    ax = contribution_bars(["a", "b"], values, has=[[True, True], [True, False]])
    assert [bar.get_width() for bar in ax.patches] == [2, 2]
    assert [len(line.get_xdata()) for line in ax.lines[1:]] == [2, 1]
    with pytest.raises(
        ValueError, match=r"^expected values of shape \(1,\) or \(b, 1\) and `has` alike, got \(2, 2\)"
    ):
        contribution_bars(["a"], values)
