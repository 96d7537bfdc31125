import torch

from healnet import HEALNet
from healnet.encoders import GraphEncoder, GridEncoder, SequenceEncoder
from healnet.explain import gradient_x_input, occlude, shapley_modalities
from healnet.explain._batching import copies
from healnet.inputs import Graph, Masked, TimeSeries


def test_large_inputs_are_copied_less_often():
    assert copies({"x": torch.zeros(3, 10)}, rows=100) == 33
    assert copies({"x": torch.zeros(3, 10)}, rows=1) == 1
    assert copies({"x": torch.empty(2, 2**20), "y": None}, rows=100) == 8
    assert copies({"x": Masked(torch.empty(1, 2**25), torch.tensor([True]))}, rows=100) == 1


def test_graphs_and_series_are_explained_like_any_modality():
    torch.manual_seed(0)
    encoders = {
        "cells": GraphEncoder(3, walk_length=3, eigenvectors=1),
        "vitals": SequenceEncoder(2),
        "ct": GridEncoder(1, 2),
    }
    model = HEALNet(
        encoders, output="cox", depth=1, num_latents=3, latent_dim=4, num_heads=1, head_dim=2
    ).double()
    values = {"dtype": torch.float64}
    ring = Graph.of(torch.randn(5, 3, **values), torch.tensor([[0, 1, 2, 3, 4], [1, 2, 3, 4, 0]]))
    step = torch.ones(2, 6, dtype=torch.bool)
    inputs = {
        "cells": Graph.stack([ring, ring]),
        "vitals": TimeSeries(torch.randn(2, 6, 2, **values), torch.arange(6.0).expand(2, 6), step),
        "ct": torch.randn(2, 3, 4, 1, **values),
    }
    shares = shapley_modalities(model, inputs)
    torch.testing.assert_close(sum(shares.values()), shares.risk - shares.nothing, atol=1e-12, rtol=0)
    assert min(value.abs().min() for value in shares.values()) > 0
    assert occlude(model, inputs, modalities=["cells"])["cells"].shape == (2, 5)
    assert occlude(model, inputs, modalities=["vitals"])["vitals"].abs().min() > 0
    assert occlude(model, inputs, modalities=["ct"], groups={"ct": torch.arange(12).reshape(3, 4) // 4})[
        "ct"
    ].shape == (2, 3)
    assert gradient_x_input(model, inputs, per_token=True)["vitals"].shape == (2, 6)
