import math

import pytest
import torch

from healnet import Graph, Masked, PatchBag
from healnet.testing.masked_examples import (
    as_double,
    element_masked,
    example_size,
    extra_axis,
    more_padding,
    whole_patient,
)


def masks_of(inputs):
    generator = torch.Generator().manual_seed(0)
    return [[example.inputs.mask.shape for example in group] for group in element_masked(inputs, generator)]


def test_masks_of_elements_that_an_encoder_may_take():
    assert masks_of(torch.zeros(3, 4)) == [[(3, 4)]]
    assert masks_of(torch.zeros(3, 4, 5)) == [[(3, 4), (3, 4, 5)]]
    assert masks_of(torch.zeros(3, 2, 6, 7)) == [[(3, 2, 6), (3, 2, 6, 7), (3, 6, 7)]]
    assert masks_of(Masked(torch.zeros(3, 4, 5), torch.ones(3, 4).bool())) == [[(3, 4)]]
    assert masks_of(Masked(torch.zeros(3, 4), torch.ones(3).bool())) == [[(3, 4)]]


def test_what_is_masked_is_replaced_and_nothing_else():
    own = torch.tensor([[True, True, True, False], [True] * 4])
    ((example,),) = element_masked(Masked(torch.ones(2, 4), own), torch.Generator().manual_seed(0))
    mask = example.inputs.mask
    assert (mask & ~own).sum() == 0
    assert mask.any(1).all()
    assert not mask.all()
    moved = example.replaced(lambda x: torch.full_like(x, math.nan))
    assert torch.equal(moved.values.isnan(), ~mask)
    assert torch.equal(moved.mask, mask)


def test_a_mask_behind_channels_covers_all_of_them():
    (group,) = element_masked(torch.ones(2, 3, 4, 5), torch.Generator().manual_seed(0))
    example = group[2]
    assert example.inputs.mask.shape == (2, 4, 5)
    assert torch.equal(example.masked["values"], ~example.inputs.mask[:, None].expand(2, 3, 4, 5))


def test_masks_of_a_graph_cover_nodes_and_edges_apart():
    ring = Graph.of(torch.ones(3, 2), torch.tensor([[0, 1, 2], [1, 2, 0]]), edges=torch.ones(3, 1))
    example = whole_patient(Graph.stack([ring, ring]), 1)
    moved = example.replaced(lambda x: x * 0)
    assert moved.nodes.flatten(1).tolist() == [[1] * 6, [0] * 6]
    assert moved.edges.flatten(1).tolist() == [[1] * 3, [0] * 3]
    assert not moved.mask[1].any()


def test_padding_is_masked_and_at_the_end():
    bag = PatchBag(torch.ones(2, 3, 4), torch.ones(2, 3, 2), torch.ones(2, 3).bool())
    longer = more_padding(bag)
    assert longer.features.shape == (2, 6, 4)
    assert longer.coords[:, 3:].unique().tolist() == [7]
    assert longer.mask.tolist() == [[True] * 3 + [False] * 3] * 2
    assert more_padding(Masked(torch.ones(2, 5), torch.ones(2, 5).bool())) is None  # features are fixed
    assert more_padding(Masked(torch.ones(2, 3, 4, 4), torch.ones(2, 4, 4).bool())) is None  # channels first
    assert more_padding(torch.ones(2, 3, 4)) is None


def test_examples_are_copied_and_looked_at():
    bag = PatchBag(torch.ones(2, 3, 4), torch.ones(2, 3, 2).long(), torch.ones(2, 3).bool())
    double = as_double(bag)
    assert (double.features.dtype, double.coords.dtype, double.mask.dtype) == (
        torch.float64,
        torch.int64,
        torch.bool,
    )
    assert double.coords is not bag.coords
    assert extra_axis(bag).features.shape == (2, 3, 4, 2)
    assert extra_axis(bag).mask.shape == (2, 3)
    assert example_size(bag) == 2
    with pytest.raises(
        ValueError, match=r"^expected finite example inputs, got NaN or infinity in features$"
    ):
        example_size(bag._replace(features=bag.features / 0))
    with pytest.raises(
        ValueError, match=r"^expected an example batch of at least two patients, got batch sizes"
    ):
        example_size(bag._replace(mask=bag.mask[:1]))
