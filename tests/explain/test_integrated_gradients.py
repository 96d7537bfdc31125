import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

from healnet.explain import integrated_gradients
from healnet.inputs import values_of, with_values


def log_hazard(model, inputs):
    with torch.no_grad():
        return model.eval()(inputs)[:, 0]


def test_scores_sum_to_the_change_of_risk(model, inputs):
    scores = integrated_gradients(model, inputs, steps=100)
    zeros = {name: with_values(value, torch.zeros_like(values_of(value))) for name, value in inputs.items()}
    change = log_hazard(model, inputs) - log_hazard(model, zeros)
    total = sum(score.flatten(1).sum(dim=1) for score in scores.values())
    torch.testing.assert_close(total, change, atol=2e-3, rtol=0)
    assert change.abs().min() > 0.01
    assert scores["slide"].shape == (3, 11, 4)


def test_they_are_captums(model, inputs):
    """The tables alone, whose masks captum need not repeat."""
    model.eval()
    captum = pytest.importorskip("captum.attr", reason="captum is in the dev extra")
    rna, protein = inputs["rna"], inputs["protein"].values

    def forward(a, b):
        return model({"rna": a, "protein": b})[:, 0]

    expected = captum.IntegratedGradients(forward).attribute((rna, protein), n_steps=20)
    found = integrated_gradients(model, {"rna": rna, "protein": protein}, steps=20)
    torch.testing.assert_close(found["rna"], expected[0])
    torch.testing.assert_close(found["protein"], expected[1])


def test_only_the_named_modalities_move(model, inputs):
    scores = integrated_gradients(model, inputs, modalities=["rna"], steps=100)
    assert list(scores) == ["rna"]
    change = log_hazard(model, inputs) - log_hazard(model, {**inputs, "rna": torch.zeros(3, 5).double()})
    torch.testing.assert_close(scores["rna"].sum(dim=1), change, atol=2e-3, rtol=0)


def test_what_is_masked_scores_zero(model, inputs):
    scores = integrated_gradients(model, inputs, steps=30)
    assert scores["protein"][1].abs().max() == 0
    assert scores["slide"][2].abs().max() == 0
    values = inputs["protein"].values.clone()
    values[1] = torch.nan  # where it is masked
    again = integrated_gradients(
        model, {**inputs, "protein": inputs["protein"]._replace(values=values)}, steps=30
    )
    assert torch.equal(again["protein"], scores["protein"])


def test_a_baseline_of_its_own_scores_zero(model, inputs):
    scores = integrated_gradients(model, inputs, baselines={"rna": inputs["rna"]}, steps=30)
    assert scores["rna"].abs().max() == 0
    assert scores["protein"].abs().max() > 0


def test_smaller_passes_give_the_same(model, inputs):
    whole = integrated_gradients(model, inputs, steps=30)
    pieces = integrated_gradients(model, inputs, steps=30, rows=3)
    torch.testing.assert_close(whole["slide"], pieces["slide"])


class Step(nn.Module):
    """A risk that rises within a thousandth of the line, where few points fall."""

    output = "value"

    def forward(self, inputs):
        return torch.sigmoid(1e4 * (inputs["x"] - 0.7)).sum(dim=1)


def test_too_few_points_are_warned_about():
    message = r"^the integrated gradients of 1 of 2 patients miss the change of the risk by up to \d+% of their total size"
    with pytest.warns(UserWarning, match=message):
        integrated_gradients(Step(), {"x": torch.tensor([[1.0], [0.1]])}, steps=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        integrated_gradients(Step(), {"x": torch.tensor([[0.2]])}, steps=4)


def test_wrong_requests_are_refused(model, inputs):
    message = r"^modality 'rna': expected a baseline of shape \(3, 5\), got \(3, 4\)$"
    with pytest.raises(ValueError, match=message):
        integrated_gradients(model, inputs, baselines={"rna": torch.zeros(3, 4)})
    message = r"^modality 'ct': expected baselines of the scored modalities \['rna', 'protein', 'slide'\]$"
    with pytest.raises(ValueError, match=message):
        integrated_gradients(model, inputs, baselines={"ct": torch.zeros(3, 5)})
    with pytest.raises(ValueError, match=r"^expected steps >= 1, got 0$"):
        integrated_gradients(model, inputs, steps=0)


@pytest.mark.linux
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_that_of_a_few_copies_however_many_steps():
    """A bag of 8 MiB along 200 points would be 1.6 GiB held at once, before any activation."""
    code = (
        "import re, torch\n"
        "from pathlib import Path\n"
        "from healnet import HEALNet, PatchBag\n"
        "from healnet.encoders import PatchEncoder\n"
        "from healnet.explain import integrated_gradients\n"
        "torch.manual_seed(0); n, c = 4096, 512\n"
        "model = HEALNet({'slide': PatchEncoder(c, positions=False)}, depth=1, num_latents=4, output='cox')\n"
        "bag = PatchBag(torch.randn(1, n, c), torch.zeros(1, n, 2), torch.ones(1, n, dtype=torch.bool))\n"
        # Not `resource`'s maximum, which begins at that of the process that started this one.
        "peak = lambda: int(re.search(r'VmHWM:\\s*(\\d+) kB', Path('/proc/self/status').read_text())[1])\n"
        "before = peak()\n"
        "integrated_gradients(model, {'slide': bag}, steps=200)\n"
        "print((peak() - before) / 2**10)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 600


def test_a_baseline_may_be_of_another_type_have_a_graph_and_be_nan_where_nobody_has_it(model, inputs):
    expected = integrated_gradients(model, inputs, steps=30)
    start = torch.zeros(3, 3, requires_grad=True)
    nan = torch.zeros(3, 3).index_fill(0, torch.tensor(1), torch.nan)  # the second patient has no protein
    for baseline in (start, nan):
        found = integrated_gradients(model, inputs, baselines={"protein": baseline}, steps=30)
        assert not found["protein"].requires_grad
        assert torch.equal(found["protein"], expected["protein"])
