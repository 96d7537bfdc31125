import pytest
import torch
from torch import nn

from healnet.explain import faithfulness, plot_faithfulness
from healnet.inputs import Masked, real_elements, values_of


class Sum(nn.Module):
    """The risk is the sum of the real numbers."""

    output = "value"

    def forward(self, inputs):
        value = inputs["x"]
        return (values_of(value) * real_elements(value)).sum(dim=1, keepdim=True)


X = torch.tensor([[4.0, -3.0, 2.0, 1.0]])


def test_curves_by_hand():
    found = faithfulness(Sum(), {"x": X}, {"x": X}, steps=4)
    assert found.fractions.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert found.deletion.tolist() == [[4, 0, -2, -3, 0]]
    assert found.insertion.tolist() == [[0, 4, 6, 7, 4]]


def test_signed_scores_are_not_ranked_by_size():
    """By size, elements that raise and that lower the risk would go together and cancel: 4, 0, 3, 1, 0."""
    message = r"^modality 'x': expected scores of at least 0 with signed=False, got -3: effects of both signs cancel"
    with pytest.raises(ValueError, match=message):
        faithfulness(Sum(), {"x": X}, {"x": X}, signed=False)
    hidden = Masked(X, torch.tensor([[True, False, True, True]]))  # the negative score is of a masked element
    assert faithfulness(Sum(), {"x": hidden}, {"x": X}, signed=False, steps=3).deletion.tolist() == [
        [7, 3, 1, 0]
    ]


def test_masked_elements_are_never_counted():
    value = Masked(X.expand(2, 4), torch.tensor([[True] * 4, [False, False, True, True]]))
    found = faithfulness(Sum(), {"x": value}, {"x": torch.tensor([[4.0, 3, 2, 1], [9, 9, 2, 1]])}, steps=2)
    assert found.deletion[1].tolist() == [3, 1, 0]
    assert found.insertion[1].tolist() == [0, 2, 3]


def test_the_true_score_is_faithful_and_its_opposite_and_noise_are_not():
    x = torch.randn(40, 20, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(40, 20, generator=torch.Generator().manual_seed(1))
    good, bad, none = (
        faithfulness(Sum(), {"x": x}, {"x": score}, repeats=10).area_above_random().mean()
        for score in (x, -x, noise)
    )
    assert good > 3
    assert bad < -3
    assert abs(none) < 0.7
    unsigned = (
        faithfulness(Sum(), {"x": x.abs()}, {"x": x.abs()}, signed=False, repeats=10)
        .area_above_random()
        .mean()
    )
    assert unsigned > 2


def test_the_same_seed_gives_the_same_random_orders(model, inputs):
    scores = torch.rand(3, 11)
    first, second = (faithfulness(model, inputs, {"slide": scores}, steps=3) for _ in range(2))
    assert torch.equal(first.random_deletion, second.random_deletion)
    # The third patient has no slide: nothing can change.
    assert first.deletion[2].unique().numel() == 1
    torch.testing.assert_close(first.deletion[:, 0], first.insertion[:, -1])


def test_curves_are_drawn_as_they_are():
    found = faithfulness(Sum(), {"x": X}, {"x": X}, steps=4)
    left, right = plot_faithfulness({"true": found})
    assert list(left.lines[1].get_ydata()) == [4, 0, -2, -3, 0]
    assert list(right.lines[1].get_ydata()) == [0, 4, 6, 7, 4]
    assert list(left.lines[1].get_xdata()) == [0, 25, 50, 75, 100]
    # Where the whole modality goes, or comes, a curve may jump.
    assert left.get_xlabel().endswith("shaded step: at 100% the modality is absent")
    assert right.get_xlabel().endswith("shaded step: at 0% the modality is absent")
    for ax, bounds in (
        (left, (75, 100)),
        (right, (0, 25)),
    ):  # a rectangle, or a polygon before Matplotlib 3.9
        shaded = ax.patches[0].get_window_extent().transformed(ax.transData.inverted())
        assert shaded.intervalx == pytest.approx(bounds, abs=1e-9)
    with pytest.raises(ValueError, match=r"^expected at least one score's curves, got none$"):
        plot_faithfulness({})


def test_several_modalities_go_together_each_in_its_own_order():
    class Both(nn.Module):
        output = "value"

        def forward(self, inputs):
            return sum(Sum()({"x": inputs[name]}) for name in ("x", "y", "z"))

    y = torch.tensor([[1.0, 10.0]])
    given = {"x": X, "y": y, "z": y}
    found = faithfulness(Both(), given, {"x": X, "y": y}, steps=2)
    assert found.deletion.tolist() == [[4 + 11 + 11, -2 + 1 + 11, 0 + 0 + 11]]
    assert found.insertion.tolist() == [[0 + 0 + 11, 6 + 10 + 11, 4 + 11 + 11]]


def test_wrong_requests_are_refused():
    with pytest.raises(ValueError, match=r"^modality 'x': expected scores of shape \(1, 4\), got \(1, 3\)$"):
        faithfulness(Sum(), {"x": X}, {"x": torch.zeros(1, 3)})
    for scores, kind in ((X, "Tensor"), ({}, "dict")):
        with pytest.raises(
            ValueError, match=rf"^expected scores as a mapping {{modality: tensor}}, got {kind}$"
        ):
            faithfulness(Sum(), {"x": X}, scores)
    with pytest.raises(ValueError, match=r"^modality 'y': expected one that the inputs have, \['x'\]$"):
        faithfulness(Sum(), {"x": X}, {"y": X})
    message = r"^modality 'x': expected finite scores of its real elements$"
    with pytest.raises(ValueError, match=message):
        faithfulness(Sum(), {"x": X}, {"x": torch.tensor([[1.0, torch.nan, 0.0, 0.0]])})
    with pytest.raises(ValueError, match=r"^expected steps >= 1 and repeats >= 1, got 0 and 3$"):
        faithfulness(Sum(), {"x": X}, {"x": X}, steps=0)


def test_equal_scores_are_in_random_order_and_not_in_that_of_the_slide():
    """The first half of each patient's elements carries the risk: by position a constant score would be the best of all."""
    x = torch.cat([torch.ones(200, 10), torch.zeros(200, 10)], dim=1)
    found = faithfulness(Sum(), {"x": x}, {"x": torch.zeros(200, 20)}, steps=4, repeats=5)
    assert abs(float(found.area_above_random().mean())) < 0.2  # by position 5
    # Half of the elements are equal: those above them still come first.
    half = faithfulness(Sum(), {"x": x}, {"x": x}, steps=2)
    assert half.deletion[0].tolist() == [10, 0, 0]


def test_scores_may_be_ranks():
    ranks = torch.tensor([[4, 1, 3, 2]])
    assert faithfulness(Sum(), {"x": X}, {"x": ranks}, steps=4).deletion.tolist() == [[4, 0, -2, -3, 0]]
    assert ranks.tolist() == [[4, 1, 3, 2]]
