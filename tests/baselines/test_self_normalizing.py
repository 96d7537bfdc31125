import numpy as np
import pytest
import torch

from healnet import Masked
from healnet.baselines import SelfNormalizingNetwork
from healnet.encoders import OmicEncoder

ALPHA, SCALE = 1.6732632423543772, 1.0507009873554805  # Klambauer et al. 2017, below eq. 2


def selu(x):
    return SCALE * np.where(x > 0, x, ALPHA * (np.exp(x) - 1))


def build(**options):
    torch.manual_seed(0)
    encoders = {"rna": OmicEncoder(5, "vector"), "cnv": OmicEncoder(3, "vector")}
    return SelfNormalizingNetwork(encoders, out_dim=2, hidden=(7, 4), **options).double().eval()


def test_the_model_is_the_papers_equation():
    model = build()
    rna, cnv = torch.randn(2, 5, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    p = {name: x.detach().numpy() for name, x in model.named_parameters()}
    h = np.concatenate((rna.numpy(), cnv.numpy()), axis=1)
    for i in range(2):
        h = selu(h @ p[f"layers.{i}.linear.weight"].T + p[f"layers.{i}.linear.bias"])
    expected = h @ p["head.weight"].T + p["head.bias"]
    np.testing.assert_allclose(model({"cnv": cnv, "rna": rna}).detach(), expected, rtol=0, atol=1e-12)


def test_missing_features_and_tables_are_zeros():
    model = build(missing="zero")
    rna, cnv = torch.randn(2, 5, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    zeroed = rna.clone()
    zeroed[0, 2] = 0
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[0, 2] = False
    torch.testing.assert_close(
        model({"rna": Masked(rna, mask), "cnv": cnv}), model({"rna": zeroed, "cnv": cnv})
    )
    torch.testing.assert_close(model({"rna": rna}), model({"rna": rna, "cnv": torch.zeros_like(cnv)}))


def test_one_missing_feature_is_no_missing_table():
    mask = torch.tensor([[True, False, True, True, True]])
    build()({"rna": Masked(torch.randn(1, 5), mask), "cnv": torch.randn(1, 3)})


def test_activations_stay_near_mean_zero_and_variance_one():
    """What SELU, LeCun-normal weights and alpha dropout are for, over eight layers and in training."""
    torch.manual_seed(0)
    model = SelfNormalizingNetwork(
        {"rna": OmicEncoder(400, "vector")}, hidden=(400,) * 8, dropout=0.1
    ).train()
    h = model.layers(torch.randn(500, 400))
    assert abs(h.mean().item()) < 0.1
    assert h.var().item() == pytest.approx(1, abs=0.2)


def test_several_tokens_are_refused():
    model = SelfNormalizingNetwork({"rna": OmicEncoder(5, tokens=3)})
    message = (
        r"^modality 'rna': expected one token per patient, as OmicEncoder\(f, tokens='vector'\) makes, got 3$"
    )
    with pytest.raises(ValueError, match=message):
        model({"rna": torch.zeros(2, 5)})


def test_a_layer_without_width_is_refused():
    with pytest.raises(ValueError, match=r"^expected hidden\[1\] of at least 1, got 0$"):
        SelfNormalizingNetwork({"rna": OmicEncoder(5, "vector")}, hidden=(4, 0))


def test_number_of_parameters():
    model = SelfNormalizingNetwork({"rna": OmicEncoder(50, "vector")}, out_dim=4)
    assert sum(p.numel() for p in model.parameters()) == 50 * 256 + 256 + 256 * 256 + 256 + 256 * 4 + 4
