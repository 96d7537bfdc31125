import re

import numpy as np
import pytest
import torch

from healnet.baselines import LateKronecker
from healnet.encoders import OmicEncoder

NAMES = ("rna", "cnv", "mut")


def build(**options):
    torch.manual_seed(0)
    encoders = {name: OmicEncoder(width, "vector") for name, width in zip(NAMES, (5, 3, 7), strict=True)}
    model = LateKronecker(encoders, out_dim=2, dim=4, rank=2, **options).double().eval()
    with torch.no_grad():
        for layer in model.reduce.values():
            layer.bias.fill_(0.5)  # so that g of a zero embedding would not be 0 by ReLU
    return model


def by_numpy(model, vectors, present):
    """The equations, with np.kron, from the embeddings (j, d) of one patient."""
    p = {name: x.detach().numpy() for name, x in model.named_parameters()}
    product = np.ones(1)
    for i, name in enumerate(NAMES):
        gate = 1 / (1 + np.exp(-(p[f"gate.{name}.weight"] @ vectors.ravel() + p[f"gate.{name}.bias"])))
        reduced = np.maximum(p[f"reduce.{name}.weight"] @ vectors[i] + p[f"reduce.{name}.bias"], 0)
        product = np.kron(product, np.concatenate(([1], gate * reduced * present[i])))
    hidden = np.maximum(p["head.1.weight"] @ product + p["head.1.bias"], 0)
    return p["head.4.weight"] @ hidden + p["head.4.bias"]


@pytest.mark.parametrize("absent", [(), ("cnv",), NAMES[1:]])
def test_the_model_is_the_kronecker_product(absent):
    model = build(missing="zero")
    inputs = {
        name: torch.randn(2, width, dtype=torch.float64)
        for name, width in zip(NAMES, (5, 3, 7), strict=True)
        if name not in absent
    }
    vectors, present = model.embed({name: model.encoders[name](x) for name, x in inputs.items()}, 2)
    for row in range(2):
        expected = by_numpy(model, vectors[row].detach().numpy(), present[row].numpy())
        np.testing.assert_allclose(model(inputs)[row].detach(), expected, rtol=0, atol=1e-12)


def test_a_product_that_is_too_wide_is_refused():
    encoders = {str(i): OmicEncoder(2, "vector") for i in range(6)}
    message = "expected (rank + 1)^j of at most 131072, got 9^6 = 531441; choose a smaller rank"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        LateKronecker(encoders)
    LateKronecker(encoders, rank=4, dim=2)


def test_number_of_parameters():
    model = build()
    embedding = (4 * 4 + 4) + 2 * (4 * 4 + 4) + 4 + 1
    encoders = sum((width + 1) * 4 for width in (5, 3, 7))
    reduce, gate = 3 * (4 * 2 + 2), 3 * (12 * 2 + 2)
    head = 27 * 4 + 4 + 4 * 2 + 2
    assert sum(p.numel() for p in model.parameters()) == encoders + 3 * embedding + reduce + gate + head
