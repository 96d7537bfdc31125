import re

import h5py
import numpy as np
import pytest
import torch

from healnet import HEALNet, Masked, Pieces, Stream
from healnet.encoders import GridEncoder, OmicEncoder
from healnet.explain import attention_scores, gradient_x_input, write_scores
from healnet.training import TrainedModel


def network():
    encoders = {"rna": OmicEncoder(5), "scan": GridEncoder(channels=2, ndim=2)}
    return HEALNet(encoders, latent_dim=8, num_latents=3, output="cox").eval()


@pytest.fixture(params=["network", "trained"])
def model(request):
    """One network, and a trained model of two."""
    torch.manual_seed(0)
    if request.param == "network":
        return network()
    return TrainedModel([network(), network()], centers=[0.1, 0.2], scales=[0.5, 2.0])


@pytest.fixture
def data():
    """A table of two patients, and of the second a scan with a mask that leaves one block out."""
    torch.manual_seed(1)
    mask = torch.ones(20, 14, dtype=torch.bool)
    mask[6:12, :10] = False
    return torch.randn(2, 5), torch.rand(20, 14, 2), mask


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("method", ["mean", "rollout", "gradient", "gradient_x_input"])
def test_the_file_holds_the_scores_of_the_same_data_in_memory(model, data, tmp_path, masked, method):
    rna, scan, mask = data
    mask = mask if masked else torch.ones_like(mask)
    pieces = Pieces(scan, (6, 5), mask=mask if masked else None)
    with h5py.File(tmp_path / "attention.h5", "w") as file:
        out = file.create_dataset("scan", (20, 14), "f4", fillvalue=np.nan)
        inputs = {"rna": rna, "scan": Stream([None, pieces])}
        output = write_scores(model.train(), inputs, "scan", out, method=method, patient=1)
        assert model.training
        written = torch.from_numpy(out[:])
    whole = {"rna": rna[1:], "scan": Masked(scan[None], mask[None])}
    if method == "gradient_x_input":
        expected = gradient_x_input(model, whole, per_token=True)["scan"][0]
    else:
        expected = attention_scores(model, whole, method=method)["scan"].reshape(20, 14)
        expected = expected * (mask.sum() if method != "gradient" else 1)
    assert torch.allclose(output[1:], model.eval()(whole), atol=1e-5)
    assert torch.equal(written.isnan(), ~mask) is masked or not masked
    assert torch.allclose(written.nan_to_num(0.0), expected, rtol=1e-3, atol=1e-4 * expected.abs().max())
    if method == "mean":
        assert written[mask].mean().item() == pytest.approx(1, abs=1e-5)


def test_a_risk_turns_the_gradient(model, data):
    rna, scan, _ = data
    inputs = {"rna": rna[:1], "scan": Stream([Pieces(scan, (6, 5))])}
    found = [np.zeros((20, 14)) for _ in range(2)]
    for out, sign in zip(found, (1, -1), strict=True):
        risk = lambda output, s=sign: s * output[:, 0]  # noqa: E731
        write_scores(model, inputs, "scan", out, method="gradient", risk=risk)
    assert np.abs(found[0]).max() > 1e-9
    np.testing.assert_allclose(found[0], -found[1], rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": {"scan": torch.rand(1, 4, 4, 2)}}, "modality 'scan': expected a Stream, got Tensor"),
        ({"patient": 1}, "modality 'scan': expected a patient who has it, got 1"),
        ({"out": np.zeros((4, 5))}, "modality 'scan': expected out of shape (4, 4), got (4, 5)"),
        (
            {"method": "max"},
            "expected method 'mean', 'rollout', 'gradient' or 'gradient_x_input', got 'max'",
        ),
    ],
)
def test_what_cannot_be_written_is_refused(model, change, message):
    stream = Stream([Pieces(torch.rand(4, 4, 2), (2, 2)), None])
    options = {"inputs": {"scan": stream}, "out": np.zeros((4, 4))} | change
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        write_scores(model, options.pop("inputs"), "scan", **options)


def test_tokens_that_are_no_pixels_are_refused():
    model = HEALNet({"scan": GridEncoder(channels=2, ndim=2, patch=2)}).eval()
    message = "modality 'scan': expected one token per element, got 4 tokens of a block of (4, 4)"
    stream = Stream([Pieces(torch.rand(4, 4, 2), (4, 4))])
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        write_scores(model, {"scan": stream}, "scan", np.zeros((4, 4)))
