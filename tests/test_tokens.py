import math

import pytest
import torch
from torch.utils.data import DataLoader, default_collate

from healnet import Masked, PatchBag, Tokens
from healnet.tokens import Graph, TimeSeries, with_mask


def test_standardised_by_hand():
    # mean 2, population variance 8/3; mean 5, variance 0
    tokens = Tokens(torch.tensor([[[0.0, 2.0, 4.0], [5.0, 5.0, 5.0]]], dtype=torch.float64))
    z = 2 / math.sqrt(8 / 3 + 1e-5)
    expected = torch.tensor([[[-z, 0.0, z], [0.0, 0.0, 0.0]]], dtype=torch.float64)
    torch.testing.assert_close(tokens.standardised(), expected, rtol=0, atol=1e-12)


def test_standardised_is_computed_once_and_in_full_precision():
    tokens = Tokens(torch.tensor([[[1.0, 2.0, 3.0]]], dtype=torch.float16))
    first = tokens.standardised(torch.float64)
    assert first.dtype == torch.float64
    assert tokens.standardised(torch.float64) is first
    z = 1 / math.sqrt(2 / 3 + 1e-5)
    torch.testing.assert_close(
        first[0, 0], torch.tensor([-z, 0, z], dtype=torch.float64), rtol=1e-6, atol=1e-6
    )


def test_statistics_are_taken_before_rounding():
    """1000 and 1001 are one number in bfloat16."""
    z = Tokens(torch.tensor([[[1000.0, 1001.0]]])).standardised(torch.bfloat16)
    assert z.dtype == torch.bfloat16
    assert z.tolist() == [[[-1.0, 1.0]]]


def test_masked_tokens_are_zero_and_get_no_gradient_even_from_nan():
    values = torch.tensor([[[1.0, 3.0], [math.nan, 1.0]]], requires_grad=True)
    z = Tokens(values, torch.tensor([[True, False]])).standardised()
    assert z[0, 1].tolist() == [0.0, 0.0]
    (z * torch.tensor([1.0, 2.0])).sum().backward()
    assert values.grad[0, 1].tolist() == [0.0, 0.0]
    assert torch.isfinite(values.grad).all()


def test_present_and_repr():
    tokens = Tokens(torch.zeros(3, 2, 5), torch.tensor([[True, False], [False, False], [True, True]]))
    assert tokens.present.tolist() == [True, False, True]
    assert Tokens(torch.zeros(3, 2, 5)).present is None
    assert repr(tokens) == "Tokens(values=(3, 2, 5) torch.float32, mask=3 of 6 real)"


@pytest.mark.parametrize(
    ("values", "mask", "message"),
    [
        (
            torch.zeros(3, 2),
            None,
            "Tokens expect floating-point values of shape (b, n, c), got torch.float32 of shape (3, 2)",
        ),
        (
            torch.zeros(3, 2, 5, dtype=torch.long),
            None,
            "Tokens expect floating-point values of shape (b, n, c), got torch.int64 of shape (3, 2, 5)",
        ),
        (
            torch.zeros(3, 2, 5),
            torch.ones(3, 5, dtype=torch.bool),
            "Tokens expect a bool mask of shape (3, 2), got torch.bool of shape (3, 5)",
        ),
        (
            torch.zeros(3, 2, 5),
            torch.ones(3, 2),
            "Tokens expect a bool mask of shape (3, 2), got torch.float32 of shape (3, 2)",
        ),
    ],
)
def test_wrong_tokens_are_refused(values, mask, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole message is compared
        Tokens(values, mask)
    assert str(error.value) == message


def test_moving_changes_the_dtype_of_values_and_never_of_masks():
    masked = Masked(torch.ones(2, 3), torch.tensor([True, False])).to(torch.float64)
    assert (masked.values.dtype, masked.mask.dtype) == (torch.float64, torch.bool)
    bag = PatchBag(torch.ones(2, 3, 5), torch.ones(2, 3, 2), torch.ones(2, 3, dtype=torch.bool))
    moved = bag.to(device="cpu", dtype=torch.float64)
    assert [x.dtype for x in moved] == [torch.float64, torch.float32, torch.bool]


def test_half_precision_is_for_features_and_spares_coordinates_and_times():
    far = torch.tensor([[[120_001.0, 70_003.0]]])
    bag = PatchBag(torch.ones(1, 1, 5), far, torch.ones(1, 1, dtype=torch.bool))
    clock = torch.tensor([[4097.25]])
    series = TimeSeries(torch.ones(1, 1, 2), clock, torch.ones(1, 1, dtype=torch.bool))
    cells = Graph.of(torch.ones(1, 5), torch.empty(2, 0, dtype=torch.long), centroids=far[0])
    for like in (torch.float16, torch.empty(0, dtype=torch.float16)):
        half = bag.to(like)
        assert half.features.dtype == torch.float16
        assert torch.equal(half.coords, far)
        assert torch.equal(series.to(like).times, clock)
        assert torch.equal(cells.to(like).centroids, far[0])


def test_every_part_moves_to_the_device():
    bag = PatchBag(torch.ones(1, 1, 5), torch.ones(1, 1, 2), torch.ones(1, 1, dtype=torch.bool))
    cells = Graph.stack([Graph.of(torch.ones(1, 5), torch.zeros(2, 1, dtype=torch.long))])
    series = TimeSeries(torch.ones(1, 1, 2), torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool))
    for value in (bag, cells, series, Masked(torch.ones(1, 2), torch.ones(1, dtype=torch.bool))):
        for moved in (
            value.to("meta"),
            value.to(torch.device("meta"), torch.float64, non_blocking=True),
            value.to(device="meta", dtype=torch.float64),
            value.to(torch.empty(0, device="meta")),
        ):
            assert {field.device.type for field in moved} == {"meta"}


def test_a_node_takes_its_edges_along_when_it_is_hidden():
    path = Graph.stack([Graph.of(torch.zeros(3, 5), torch.tensor([[0, 1], [1, 2]]))] * 2)
    hidden = with_mask(path, torch.tensor([[True, True, True], [False, True, True]]))
    assert hidden.mask.tolist() == [[True] * 3, [False, True, True]]
    assert hidden.edge_mask.tolist() == [[True, True], [False, True]]
    # An edge that was padding stays so.
    assert not path._replace(edge_mask=path.edge_mask & False).with_mask(path.mask).edge_mask.any()


def test_default_collation_keeps_the_types():
    items = [Masked(torch.full((3,), float(i)), torch.tensor(i == 0)) for i in range(2)]
    batch = default_collate(items)
    assert isinstance(batch, Masked)
    assert batch.values.tolist() == [[0.0] * 3, [1.0] * 3]
    assert batch.mask.tolist() == [True, False]
    assert isinstance(next(iter(DataLoader(items, batch_size=2))), Masked)
