import re

import pytest
import torch
from torch.utils.data import DataLoader, default_collate

from healnet import Graph, Masked, PatchBag, TimeSeries
from healnet.inputs import (
    Hidden,
    batch_size,
    broadcast_mask,
    element_mask,
    hide,
    map_tensors,
    move,
    present,
    real_elements,
    repeat,
    take,
    unmask,
    values_of,
    with_mask,
    with_values,
)


def bag():
    return PatchBag(
        torch.ones(2, 3, 5), torch.zeros(2, 3, 2, dtype=torch.long), torch.ones(2, 3, dtype=torch.bool)
    )


def test_numbers_are_found_and_replaced_in_every_kind_of_input():
    assert values_of(bag()).shape == (2, 3, 5)
    assert torch.equal(with_values(bag(), torch.zeros(2, 3, 5)).features, torch.zeros(2, 3, 5))
    assert with_values(torch.ones(2), torch.zeros(2)).tolist() == [0, 0]
    with pytest.raises(ValueError, match=r"^expected a tensor or a NamedTuple of tensors, got list$"):
        values_of([1.0])


def test_elements_are_those_of_the_mask():
    assert real_elements(torch.zeros(2, 7)).shape == (2, 7)
    assert real_elements(torch.zeros(2, 4, 6, 3)).shape == (2, 4, 6)
    half = Masked(torch.zeros(2, 4, 6, 3), torch.tensor([True, False]))
    assert real_elements(half).sum(dim=(1, 2)).tolist() == [24, 0]
    assert real_elements(bag()).shape == (2, 3)


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
    repeated = repeat(Masked(torch.tensor([[1.0], [2.0]]), torch.tensor([True, False])), 2)
    assert repeated.values.flatten().tolist() == [1, 2, 1, 2]
    assert repeated.mask.tolist() == [True, False, True, False]
    assert repeat(None, 3) is None


def test_batch_size_needs_a_modality():
    assert batch_size({"a": None, "b": bag()}) == 2
    with pytest.raises(ValueError, match=r"^expected inputs with at least one modality, got none$"):
        batch_size({"a": None})


def test_a_hidden_node_takes_its_edges_along():
    path = Graph.stack([Graph.of(torch.ones(4, 2), torch.tensor([[0, 1, 2], [1, 2, 3]]))] * 2)
    hidden = hide(path, torch.tensor([[False, True, False, False], [True, True, True, True]]))
    assert hidden.mask.tolist() == [[True, False, True, True], [False] * 4]
    assert hidden.edge_mask.tolist() == [[False, False, True], [False] * 3]
    assert hide(path, torch.tensor([True, False])).edge_mask.tolist() == [[False] * 3, [True] * 3]


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


def test_taking_patients_by_position_and_by_mask():
    batch = PatchBag(
        torch.arange(4.0).view(2, 2, 1), torch.zeros(2, 2, 2), torch.ones(2, 2, dtype=torch.bool)
    )
    assert take(batch, torch.tensor([1])).features.tolist() == [[[2.0], [3.0]]]
    assert take({"slide": batch}, torch.tensor([True, False]))["slide"].features.tolist() == [[[0.0], [1.0]]]


def test_functions_of_tensors_reach_every_nested_field_by_name():
    seen = []

    def note(tensor, name):
        seen.append(name)
        return tensor + 1

    value = {"a": torch.zeros(1), "b": Masked(torch.zeros(2), torch.zeros(2)), "c": None}
    result = map_tensors(note, value)
    assert seen == ["a", "values", "mask"]
    assert (result["a"].item(), result["b"].mask.tolist(), result["c"]) == (1.0, [1.0, 1.0], None)
    assert value["a"].item() == 0


def test_moving_any_input_keeps_its_types():
    moved = move(
        {"x": Masked(torch.zeros(2, 3, dtype=torch.float64), torch.ones(2, dtype=torch.bool))}, "meta"
    )
    assert isinstance(moved["x"], Masked)
    assert [(f.device.type, f.dtype) for f in moved["x"]] == [("meta", torch.float64), ("meta", torch.bool)]


def test_a_mask_spreads_over_the_axes_it_does_not_have():
    mask = torch.tensor([[True, False, True], [False, False, True]])
    assert broadcast_mask(mask, (2, 3, 2))[1].tolist() == [[False] * 2, [False] * 2, [True] * 2]
    with pytest.raises(
        ValueError, match=r"^expected a mask over the first axes of shape \(2, 5, 2\), got \(2, 3\)$"
    ):
        broadcast_mask(mask, (2, 5, 2))


def test_unmask():
    x, mask = torch.zeros(2, 3), torch.tensor([True, False])
    assert unmask(x) == (x, None)
    assert unmask(Masked(x, mask)) == (x, mask)


def test_a_mask_per_patient_spreads_over_its_elements():
    spread = element_mask(torch.tensor([True, False]), torch.Size((2, 3)))
    assert spread.tolist() == [[True] * 3, [False] * 3]
    assert element_mask(None, torch.Size((2, 3))) is None
    assert element_mask(spread, torch.Size((2, 3))) is spread


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: unmask("rna"), "expected a tensor or Masked(values, mask), got str"),
        (
            lambda: unmask(Masked(torch.zeros(2), torch.ones(2))),
            "expected a bool mask (True = real), got torch.float32",
        ),
        (
            lambda: element_mask(torch.ones(3, dtype=torch.bool), torch.Size((2, 3))),
            "expected a mask of shape (2,) or (2, 3), got (3,)",
        ),
    ],
)
def test_bad_masks_are_refused(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


def test_an_image_without_some_elements_remembers_what_was_real():
    image = torch.rand(2, 3, 4, 1)
    last = torch.zeros(1, 3, 4, dtype=torch.bool)
    last[:, 2] = True
    once = hide(image, last)
    assert isinstance(once, Hidden)
    assert torch.equal(once.mask, ~last.expand(2, 3, 4))
    assert once.extent.all()
    again = hide(once, last.flip(1))
    assert torch.equal(again.mask, ~(last | last.flip(1)).expand(2, 3, 4))
    assert again.extent.all()
    some = hide(Masked(image, torch.tensor([True, False])), last)
    assert some.extent.flatten(1).all(dim=1).tolist() == [True, False]
    assert isinstance(hide(image, torch.tensor([True, False])), Masked)  # whole patients
    assert isinstance(hide(torch.rand(2, 5), torch.zeros(2, 5, dtype=torch.bool)), Masked)  # a table
