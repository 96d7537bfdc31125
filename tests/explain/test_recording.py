import pytest
import torch

from healnet.explain import (
    activation_pattern,
    attention_scores,
    gradient_x_input,
    input_gradients,
    integrated_gradients,
    occlude,
    shapley_modalities,
)
from healnet.inputs import map_tensors

SCORES = (
    activation_pattern,
    attention_scores,
    gradient_x_input,
    input_gradients,
    integrated_gradients,
    occlude,
    shapley_modalities,
)


@pytest.mark.parametrize("score", SCORES, ids=lambda f: f.__name__)
def test_inference_mode_changes_no_score(model, inputs, score):
    """Also where the inputs were made in inference mode, by a loader within it, and are explained later."""
    expected = score(model, inputs)
    with torch.inference_mode():
        made_inside = {name: map_tensors(lambda t, _: t.clone(), value) for name, value in inputs.items()}
        inside = score(model, inputs)
    after = score(model, made_inside)
    for name, scores in expected.items():
        assert torch.equal(inside[name], scores)
        assert torch.equal(after[name], scores)


@pytest.mark.parametrize("score", [input_gradients, gradient_x_input, integrated_gradients])
def test_integers_have_no_gradient_and_are_refused(model, inputs, score):
    message = r"^modality 'rna': expected floating-point numbers, which have a gradient, got torch.int64$"
    with pytest.raises(ValueError, match=message):
        score(model, {**inputs, "rna": torch.ones(3, 5, dtype=torch.long)}, modalities=["rna"])
