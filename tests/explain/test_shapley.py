import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex

from healnet import HEALNet
from healnet._plotting import LOWERS, RAISES
from healnet.encoders import OmicEncoder
from healnet.explain import plot_contribution_bars, shapley_modalities, shapley_values
from healnet.inputs import Masked


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
    torch.testing.assert_close(sum(shares.values()), shares.risk - shares.nothing, atol=1e-12, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(shares.risk, model.eval()(inputs)[:, 0])
        torch.testing.assert_close(shares.nothing, model({})[:, 0].expand(3))
    assert list(shares) == ["rna", "protein", "slide"]


def test_a_lacking_modality_contributes_exactly_nothing(model, inputs):
    shares = shapley_modalities(model, inputs)
    assert shares["protein"][1] == 0
    assert shares["slide"][2] == 0
    has = {"rna": [True] * 3, "protein": [True, False, True], "slide": [True, True, False]}
    assert {name: value.tolist() for name, value in shares.has.items()} == has
    assert min(shares[name][shares.has[name]].abs().min() for name in shares) > 0


def test_the_cohort_mean_is_over_those_who_have_it(model, inputs):
    shares = shapley_modalities(model, inputs)
    assert shares.mean()["protein"] == pytest.approx(float(shares["protein"][[0, 2]].mean()))
    assert shares.mean_size()["slide"] == pytest.approx(float(shares["slide"][[0, 1]].abs().mean()))
    assert shares.mean()["rna"] == pytest.approx(float(shares["rna"].mean()))


def test_chosen_modalities_share_what_they_add_to_the_others(model, inputs):
    shares = shapley_modalities(model, inputs, modalities=["rna", "slide"])
    assert list(shares) == ["rna", "slide"]
    with torch.no_grad():
        torch.testing.assert_close(shares.nothing, model.eval()({"protein": inputs["protein"]})[:, 0])
    torch.testing.assert_close(sum(shares.values()), shares.risk - shares.nothing)


def test_eight_modalities_are_exact_and_nine_refused():
    torch.manual_seed(0)
    names = [f"m{i}" for i in range(9)]
    small = {"depth": 1, "num_latents": 2, "latent_dim": 4, "num_heads": 1, "head_dim": 2}
    model = HEALNet({name: OmicEncoder(2, token_dim=3) for name in names}, output="cox", **small).double()
    inputs = {name: torch.randn(2, 2, dtype=torch.float64) for name in names}
    eight = shapley_modalities(model, {name: inputs[name] for name in names[:8]})
    torch.testing.assert_close(sum(eight.values()), eight.risk - eight.nothing, atol=1e-12, rtol=0)
    message = r"^expected up to 8 modalities, for exact Shapley values take 2\^k passes, got 9: \['m0', .*'m8'\]; choose"
    with pytest.raises(ValueError, match=message):
        shapley_modalities(model, inputs)


def test_a_number_of_coalitions_that_is_no_power_of_two_is_refused():
    with pytest.raises(ValueError, match=r"^expected the values of all 2\^k coalitions, got 3$"):
        shapley_values(torch.zeros(3))


def colors(artists):
    return [to_hex(artist).upper() for artist in artists]


def test_bars_of_one_patient_have_length_side_and_color():
    ax = plot_contribution_bars({"a": [0.5], "b": -0.25, "c": [0.0]}, {"a": [True], "b": True, "c": [False]})
    assert [bar.get_width() for bar in ax.patches] == [0.5, -0.25]
    assert colors(bar.get_facecolor() for bar in ax.patches) == [RAISES, LOWERS]
    assert [text.get_text() for text in ax.texts] == ["absent"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b", "c"]
    assert ax.get_xlabel() == "lowers  ←  contribution to the risk  →  raises"


def test_bars_of_a_cohort_are_mean_sizes_that_do_not_cancel_with_a_dot_each():
    """A modality that raises one patient's risk by 2 and lowers another's by 2 matters, though its mean is 0."""
    values = {"a": np.array([2.0, -2.0, 0.0]), "b": np.array([1.0, 3.0, 50.0])}
    has = {"a": [True] * 3, "b": [True, True, False]}
    ax = plot_contribution_bars(values, has, quantity="log hazard")
    assert [bar.get_width() for bar in ax.patches] == [pytest.approx(4 / 3), 2]
    dots = [(line.get_color(), sorted(line.get_xdata())) for line in ax.lines]
    assert dots == [(RAISES, [2]), (LOWERS, [2]), (RAISES, [1, 3]), (LOWERS, [])]
    assert ax.get_xlabel() == "size of the contribution to the log hazard: bar mean, dot patient"
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [
        "raises the log hazard",
        "lowers the log hazard",
    ]
    only = plot_contribution_bars({"a": [1.0, 2.0]})
    assert [t.get_text() for t in only.get_legend().get_texts()] == ["raises the risk"]


def test_contributions_of_other_shapes_are_refused():
    message = r"^expected contributions and `has` of one shape \(b,\) for each modality, got {'a': \(\(2,\), \(1,\)\)}$"
    with pytest.raises(ValueError, match=message):
        plot_contribution_bars({"a": [1.0, 2.0]}, {"a": [True]})
    with pytest.raises(ValueError, match=r"^expected contributions and `has` of one shape"):
        plot_contribution_bars({})


def test_integer_values_are_not_weighed_by_zero():
    assert shapley_values(torch.tensor([0, 0, 0, 0, 0, 1, 1, 1])).tolist() == pytest.approx(
        [1 / 6, 1 / 6, 2 / 3]
    )


def test_what_all_lack_takes_no_pass_and_what_one_lacks_is_exactly_zero():
    torch.manual_seed(0)
    names = [f"m{i}" for i in range(12)]
    small = {"depth": 1, "num_latents": 2, "latent_dim": 4, "num_heads": 1, "head_dim": 2}
    model = HEALNet({name: OmicEncoder(2, token_dim=3) for name in names}, output="cox", **small).eval()
    there = torch.rand(7, 12) > 0.5
    there[:, 7:] = False
    inputs = {name: Masked(torch.randn(7, 2), there[:, i]) for i, name in enumerate(names)}
    passes = []
    model.head.register_forward_pre_hook(lambda _, args: passes.append(len(args[0])))
    shares = shapley_modalities(model, inputs)
    assert sum(passes) == 7 * 2**7
    assert list(shares) == names
    for i, name in enumerate(names):
        assert (shares[name][~there[:, i]] == 0).all()  # at most 1e-8 by rounding alone
    torch.testing.assert_close(sum(shares.values()), shares.risk - shares.nothing, atol=1e-6, rtol=0)
    nobody = shapley_modalities(model, {name: inputs[name] for name in names[7:]})
    assert {name: value.tolist() for name, value in nobody.items()} == {name: [0] * 7 for name in names[7:]}


def test_a_modality_named_twice_counts_once(model, inputs):
    twice = shapley_modalities(model, inputs, modalities=["rna", "rna"])
    assert torch.equal(twice["rna"], shapley_modalities(model, inputs, modalities=["rna"])["rna"])


def test_contributions_that_cannot_be_drawn_are_refused():
    message = r"^modality 'a': expected finite contributions of the patients who have it, got \[ ?1. nan\]$"
    with pytest.raises(ValueError, match=message):
        plot_contribution_bars({"a": [1.0, np.nan]})
    lacks = plot_contribution_bars({"a": torch.tensor([1.0, torch.nan])}, {"a": torch.tensor([True, False])})
    assert [bar.get_width() for bar in lacks.patches] == [1]
