import pytest
import torch

from healnet import HEALNet
from healnet.encoders import GraphEncoder, GridEncoder, SequenceEncoder
from healnet.explain import gradient_x_input, occlude, shapley_modalities
from healnet.explain._inputs import (
    batch_size,
    check_modality,
    copies,
    element_mask_of,
    hide,
    main_values,
    present,
    repeat_rows,
    with_values,
)
from healnet.tokens import Graph, Masked, PatchBag, TimeSeries


def bag():
    return PatchBag(
        torch.ones(2, 3, 5), torch.zeros(2, 3, 2, dtype=torch.long), torch.ones(2, 3, dtype=torch.bool)
    )


def test_numbers_are_found_and_replaced_in_every_kind_of_input():
    assert main_values(bag()).shape == (2, 3, 5)
    assert torch.equal(with_values(bag(), torch.zeros(2, 3, 5)).features, torch.zeros(2, 3, 5))
    assert with_values(torch.ones(2), torch.zeros(2)).tolist() == [0, 0]
    with pytest.raises(ValueError, match=r"^expected a tensor or a NamedTuple of tensors, got list$"):
        main_values([1.0])


def test_elements_are_those_of_the_mask():
    assert element_mask_of(torch.zeros(2, 7)).shape == (2, 7)
    assert element_mask_of(torch.zeros(2, 4, 6, 3)).shape == (2, 4, 6)
    half = Masked(torch.zeros(2, 4, 6, 3), torch.tensor([True, False]))
    assert element_mask_of(half).sum(dim=(1, 2)).tolist() == [24, 0]
    assert element_mask_of(bag()).shape == (2, 3)


def test_hiding_a_patient_of_a_plain_tensor_makes_it_masked():
    hidden = hide(torch.zeros(3, 2), torch.tensor([True, False, True]))
    assert isinstance(hidden, Masked)
    assert hidden.mask.tolist() == [False, True, False]
    assert present(hidden).tolist() == [False, True, False]


def test_hiding_elements_keeps_what_was_hidden_already():
    value = Masked(torch.zeros(2, 3), torch.tensor([True, False]))
    hidden = hide(value, torch.tensor([[True, False, False]] * 2))
    assert hidden.mask.tolist() == [[False, True, True], [False, False, False]]
    assert value.mask.tolist() == [True, False]
    whole = hide(bag(), torch.tensor([False, True]))
    assert whole.mask.tolist() == [[True] * 3, [False] * 3]


def test_what_cannot_be_masked_is_refused():
    with pytest.raises(ValueError, match=r"^expected a tensor or a NamedTuple with a mask, got dict$"):
        hide({}, torch.tensor([True]))


def test_repeating_keeps_the_type_and_the_order():
    repeated = repeat_rows(Masked(torch.tensor([[1.0], [2.0]]), torch.tensor([True, False])), 2)
    assert repeated.values.flatten().tolist() == [1, 2, 1, 2]
    assert repeated.mask.tolist() == [True, False, True, False]
    assert repeat_rows(None, 3) is None


def test_large_inputs_are_copied_less_often():
    assert copies({"x": torch.zeros(3, 10)}, rows=100) == 33
    assert copies({"x": torch.zeros(3, 10)}, rows=1) == 1
    assert copies({"x": torch.empty(2, 2**20), "y": None}, rows=100) == 8
    assert copies({"x": Masked(torch.empty(1, 2**25), torch.tensor([True]))}, rows=100) == 1


def test_batch_size_needs_a_modality():
    assert batch_size({"a": None, "b": bag()}) == 2
    with pytest.raises(ValueError, match=r"^expected inputs with at least one modality, got none$"):
        batch_size({"a": None})


def test_a_modality_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"^modality 'ct' is not among the inputs, which have \['rna'\]$"):
        check_modality({"rna": torch.zeros(1, 1), "ct": None}, "ct")


def test_a_hidden_node_takes_its_edges_along():
    path = Graph.stack([Graph.of(torch.ones(4, 2), torch.tensor([[0, 1, 2], [1, 2, 3]]))] * 2)
    hidden = hide(path, torch.tensor([[False, True, False, False], [True, True, True, True]]))
    assert hidden.mask.tolist() == [[True, False, True, True], [False] * 4]
    assert hidden.edge_mask.tolist() == [[False, False, True], [False] * 3]
    assert hide(path, torch.tensor([True, False])).edge_mask.tolist() == [[False] * 3, [True] * 3]


def test_graphs_and_series_are_explained_like_any_modality():
    torch.manual_seed(0)
    encoders = {
        "cells": GraphEncoder(3, walk_length=3, eigenvectors=1),
        "vitals": SequenceEncoder(2),
        "ct": GridEncoder(1, 2),
    }
    model = HEALNet(encoders, 1, depth=1, num_latents=3, latent_dim=4, num_heads=1, head_dim=2).double()
    values = {"dtype": torch.float64}
    ring = Graph.of(torch.randn(5, 3, **values), torch.tensor([[0, 1, 2, 3, 4], [1, 2, 3, 4, 0]]))
    step = torch.ones(2, 6, dtype=torch.bool)
    inputs = {
        "cells": Graph.stack([ring, ring]),
        "vitals": TimeSeries(torch.randn(2, 6, 2, **values), torch.arange(6.0).expand(2, 6), step),
        "ct": torch.randn(2, 3, 4, 1, **values),
    }
    shares = shapley_modalities(model, inputs)
    torch.testing.assert_close(shares.values.sum(dim=1), shares.risk - shares.nothing, atol=1e-12, rtol=0)
    assert shares.values.abs().min() > 0
    assert occlude(model, inputs, "cells").shape == (2, 5)
    assert occlude(model, inputs, "vitals").abs().min() > 0
    assert occlude(model, inputs, "ct", torch.arange(12).reshape(3, 4) // 4).shape == (2, 3)
    assert gradient_x_input(model, inputs, per_token=True)["vitals"].shape == (2, 6)
