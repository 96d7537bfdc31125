"""Places on [-1, 1]: of their own set alone."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from healnet.nn.extent import within_extent, within_scale


def test_the_longest_side_spans_minus_one_to_one_and_proportions_stay():
    coords = torch.tensor([[[10.0, 0.0], [50.0, 10.0], [30.0, 20.0]]])
    expected = torch.tensor([[[-1.0, -0.5], [1.0, 0.0], [0.0, 0.5]]])
    torch.testing.assert_close(within_extent(coords), expected, rtol=0, atol=1e-7)


def test_groups_have_boxes_of_their_own():
    coords = torch.tensor([[[0.0], [10.0], [500.0], [900.0], [700.0]]])
    groups = torch.tensor([[0, 0, 1, 1, 1]])
    assert within_extent(coords, groups=groups).flatten().tolist() == [-1, 1, -1, 1, 0]


def test_what_stands_in_padding_as_a_group_does_not_matter():
    coords = torch.tensor([[[0.0], [10.0], [5.0], [3.0]]])
    mask = torch.tensor([[True, True, False, False]])
    places = within_extent(coords, mask, torch.tensor([[0, 0, -1, 10**12]]))
    assert places.flatten().tolist() == [-1, 1, 0, 0]


def test_a_single_place_is_in_the_middle_and_nobody_is_no_trouble():
    coords = torch.tensor([[[7.0, 9.0], [float("nan"), 5.0]], [[3.0, 3.0], [1.0, 1.0]]])
    mask = torch.tensor([[True, False], [False, False]])
    assert within_extent(coords, mask).abs().sum() == 0
    assert within_extent(torch.zeros(2, 0, 2)).shape == (2, 0, 2)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 6), extra=st.integers(0, 4), seed=st.integers(0, 1000), grouped=st.booleans())
def test_padding_order_and_other_patients_change_nothing(n, extra, seed, grouped):
    generator = torch.Generator().manual_seed(seed)
    coords = 1e5 * torch.rand(2, n + extra, 2, generator=generator, dtype=torch.float64)
    mask = torch.arange(n + extra).expand(2, -1) < torch.tensor([[n], [n + extra]])
    groups = torch.randint(0, 3, (2, n + extra), generator=generator) if grouped else None
    batch = within_extent(coords, mask, groups)
    order = torch.randperm(n, generator=generator)
    alone = within_extent(coords[:1, order], None, None if groups is None else groups[:1, order])
    torch.testing.assert_close(batch[0, order], alone[0], rtol=0, atol=1e-12)
    assert bool((batch[0, n:] == 0).all())


def test_gradients_are_finite_where_padding_is_nan():
    coords = torch.tensor([[[0.0], [4.0], [1.0], [float("nan")]]], requires_grad=True)
    mask = torch.tensor([[True, True, True, False]])
    within_extent(coords, mask)[0, 2].sum().backward()
    torch.testing.assert_close(coords.grad.flatten(), torch.tensor([-0.375, -0.125, 0.5, 0.0]))


def test_scale_is_the_same_for_all():
    coords = torch.tensor([[[0.0, 25.0]], [[100.0, float("inf")]]])
    mask = torch.tensor([[True], [False]])
    assert within_scale(coords, mask, 50.0).tolist() == [[[-1.0, 0.0]], [[0.0, 0.0]]]
