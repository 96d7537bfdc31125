import subprocess
import sys

import pytest
import torch

from healnet.explain import integrated_gradients
from healnet.explain._model import default_risk, evaluating, risk_of
from healnet.inputs import values_of, with_values

pytest.importorskip("captum", reason="captum is an option")


def test_scores_sum_to_the_change_of_risk(model, inputs):
    scores, error = integrated_gradients(model, inputs, steps=300)
    zeros = {name: with_values(value, torch.zeros_like(values_of(value))) for name, value in inputs.items()}
    with evaluating(model):
        change = risk_of(model, inputs, default_risk) - risk_of(model, zeros, default_risk)
    total = sum(score.flatten(1).sum(dim=1) for score in scores.values())
    torch.testing.assert_close(total, change, atol=2e-3, rtol=0)
    torch.testing.assert_close(total - change, error, atol=1e-9, rtol=0)
    assert change.abs().min() > 0.01
    assert scores["slide"].shape == (3, 11, 4)


def test_what_is_masked_scores_zero(model, inputs):
    scores, _ = integrated_gradients(model, inputs, steps=5)
    assert scores["protein"][1].abs().max() == 0
    assert scores["slide"][2].abs().max() == 0
    values = inputs["protein"].values.clone()
    values[1] = torch.nan  # where it is masked
    again, error = integrated_gradients(
        model, {**inputs, "protein": inputs["protein"]._replace(values=values)}, steps=5
    )
    assert torch.equal(again["protein"], scores["protein"])
    assert error.isfinite().all()


def test_a_baseline_of_its_own_scores_zero(model, inputs):
    scores, _ = integrated_gradients(model, inputs, baselines={"rna": inputs["rna"]}, steps=5)
    assert scores["rna"].abs().max() == 0
    assert scores["protein"].abs().max() > 0


def test_smaller_passes_give_the_same(model, inputs):
    whole, _ = integrated_gradients(model, inputs, steps=8)
    pieces, _ = integrated_gradients(model, inputs, steps=8, rows=3)
    torch.testing.assert_close(whole["slide"], pieces["slide"])


def test_wrong_baselines_are_refused(model, inputs):
    with pytest.raises(ValueError, match=r"^baseline 'rna': expected \(3, 5\), got \(3, 4\)$"):
        integrated_gradients(model, inputs, baselines={"rna": torch.zeros(3, 4)})
    with pytest.raises(
        ValueError, match=r"^baseline 'ct': expected one of \['rna', 'protein', 'slide'\], got \(3, 5\)$"
    ):
        integrated_gradients(model, inputs, baselines={"ct": torch.zeros(3, 5)})


def test_without_captum_it_says_what_to_install():
    code = (
        "import sys; sys.modules['captum'] = None; sys.modules['captum.attr'] = None\n"
        "from healnet.explain import integrated_gradients\n"
        "try: integrated_gradients(None, {})\n"
        "except ImportError as error: print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "integrated gradients need captum: pip install captum"
