import math

import numpy as np
import pytest
import torch

from healnet import Masked
from healnet.baselines import AttentionMIL, GatedAttentionPool
from healnet.encoders import OmicEncoder, PatchEncoder


def as_numpy(module):
    return {name: p.detach().numpy() for name, p in module.named_parameters()}


def test_weights_by_hand():
    """One number per token, V = U = 1, w = 2: the scores are 2 tanh(h) σ(h)."""
    pool = GatedAttentionPool(1, 1).double()
    with torch.no_grad():
        for name, p in pool.named_parameters():
            p.fill_(0.0 if name.endswith("bias") else 2.0 if name.startswith("score") else 1.0)
    tokens = torch.tensor([[[0.0], [1.0]]], dtype=torch.float64)
    score = 2 * math.tanh(1) / (1 + math.exp(-1))
    expected = 1 / (1 + math.exp(-score))
    mask = torch.ones(1, 2, dtype=torch.bool)
    assert pool.weights(tokens, mask)[0].tolist() == pytest.approx([1 - expected, expected])
    assert pool(tokens, mask).item() == pytest.approx(expected)


def test_weights_of_masked_tokens_are_zero_and_an_empty_bag_pools_to_zeros():
    pool = GatedAttentionPool(3, 5)
    mask = torch.tensor([[True, False, True], [False, False, False]])
    weights = pool.weights(torch.randn(2, 3, 3), mask)
    assert weights[0].sum().item() == pytest.approx(1)
    assert (weights[~mask] == 0).all()
    assert (pool(torch.randn(2, 3, 3), mask)[1] == 0).all()
    assert pool(torch.zeros(2, 0, 3), torch.zeros(2, 0, dtype=torch.bool)).tolist() == [[0.0] * 3] * 2


def test_the_model_is_the_papers_equation():
    torch.manual_seed(0)
    model = (
        AttentionMIL({"slide": PatchEncoder(7, positions=False)}, out_dim=3, dim=5, hidden=2).double().eval()
    )
    bag = torch.randn(1, 4, 7, dtype=torch.float64)
    p = as_numpy(model)
    h = np.maximum(bag[0].numpy() @ p["embed.0.weight"].T + p["embed.0.bias"], 0)
    content = np.tanh(h @ p["pool.content.0.weight"].T + p["pool.content.0.bias"])
    gate = 1 / (1 + np.exp(-(h @ p["pool.gate.0.weight"].T + p["pool.gate.0.bias"])))
    a = np.exp((content * gate) @ p["pool.score.weight"][0])
    expected = p["head.weight"] @ (a @ h / a.sum()) + p["head.bias"]
    np.testing.assert_allclose(model({"slide": bag})[0].detach(), expected, rtol=0, atol=1e-12)


def test_who_lacks_the_bag_gets_the_head_of_zeros():
    model = AttentionMIL({"slide": PatchEncoder(7, positions=False)}, dim=5, hidden=2)
    absent = model({"slide": Masked(torch.randn(2, 4, 7), torch.tensor([True, False]))})[1]
    assert torch.equal(absent, model.head.bias)
    assert torch.equal(model({})[0], model.head.bias)


def test_dropout_of_tokens_and_of_the_attention_network_in_training_alone():
    model = AttentionMIL({"slide": PatchEncoder(7, positions=False)}, dropout=0.4)
    assert [m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)] == [0.4] * 3


def test_one_modality_only():
    with pytest.raises(ValueError, match=r"^expected one modality for attention MIL, got \['rna', 'cnv'\]$"):
        AttentionMIL({"rna": OmicEncoder(3), "cnv": OmicEncoder(3)})


def test_number_of_parameters():
    model = AttentionMIL({"slide": PatchEncoder(1024, positions=False)}, out_dim=4)
    assert sum(p.numel() for p in model.parameters()) == (
        1024 * 256 + 256 + 2 * (256 * 256 + 256) + 256 + 1 + 256 * 4 + 4
    )
