import pytest
import torch
from torch import nn

from healnet.explain import gradient_x_input, input_gradients
from healnet.inputs import with_values


def log_hazard(model, inputs):
    with torch.no_grad():
        return model.eval()(inputs)[:, 0]


class Linear(nn.Module):
    """risk = 2 x0 - 3 x1 + y0"""

    output = "value"

    def forward(self, inputs):
        x, y = inputs["x"], inputs["y"]
        return (2 * x[:, 0] - 3 * x[:, 1] + y[:, 0]).unsqueeze(1)


def test_a_linear_model_gives_its_weights_and_its_terms():
    inputs = {"x": torch.tensor([[1.0, 2.0], [-1.0, 0.0]]), "y": torch.tensor([[5.0], [7.0]]), "z": None}
    slopes = input_gradients(Linear(), inputs)
    assert slopes["x"].tolist() == [[2, -3], [2, -3]]
    assert slopes["y"].tolist() == [[1], [1]]
    scores = gradient_x_input(Linear(), inputs)
    assert scores["x"].tolist() == [[2, -6], [-2, 0]]
    assert "z" not in scores


def test_gradients_are_those_of_finite_differences(model, inputs):
    slopes = input_gradients(model, inputs)
    step = 1e-6
    for name, index in (("rna", (0, 3)), ("protein", (2, 1)), ("slide", (1, 2, 0))):
        value = inputs[name]
        numbers = (value if name == "rna" else value[0]).clone()
        sides = []
        for sign in (1, -1):
            moved = numbers.clone()
            moved[index] += sign * step
            sides.append(log_hazard(model, {**inputs, name: with_values(value, moved)})[index[0]])
        torch.testing.assert_close(
            slopes[name][index], (sides[0] - sides[1]) / (2 * step), rtol=1e-5, atol=1e-9
        )


def test_what_is_masked_has_no_gradient_and_no_input_is_touched(model, inputs):
    slopes = input_gradients(model, inputs)
    assert slopes["protein"][1].abs().max() == 0
    assert slopes["slide"][1, 4:].abs().max() == 0
    assert slopes["slide"][2].abs().max() == 0
    assert slopes["slide"][0].abs().min() > 0
    assert not inputs["rna"].requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


def test_per_token_sums_channels_only(model, inputs):
    whole, tokens = gradient_x_input(model, inputs), gradient_x_input(model, inputs, per_token=True)
    torch.testing.assert_close(tokens["slide"], whole["slide"].sum(dim=2))
    torch.testing.assert_close(tokens["rna"], whole["rna"])


def test_only_the_named_modalities_are_scored(model, inputs):
    assert list(input_gradients(model, inputs, modalities=["slide"])) == ["slide"]
    with pytest.raises(
        ValueError, match=r"^modality 'ct': expected one that the inputs have, \['rna', 'protein', 'slide'\]$"
    ):
        input_gradients(model, inputs, modalities=["ct"])


def test_a_modality_the_risk_does_not_read_scores_zero():
    inputs = {"x": torch.ones(2, 2), "y": torch.ones(2, 1), "unused": torch.ones(2, 4)}
    assert input_gradients(Linear(), inputs)["unused"].tolist() == [[0] * 4] * 2
