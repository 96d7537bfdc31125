import re
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from healnet.data import Batch, collate
from healnet.inputs import Masked, PatchBag


def item(index, **inputs):
    time = torch.tensor(index + 0.5, dtype=torch.float64)
    return Batch.of(inputs, f"p{index}", time, torch.tensor(index % 2 == 0))


def bag(n, width=3, start=0.0, columns=2, dtype=torch.float32):
    features = (torch.arange(n * width, dtype=torch.float32).reshape(n, width) + start).to(dtype)
    return PatchBag(features, torch.full((n, columns), start), torch.ones(n, dtype=torch.bool))


def test_survival_travels_along():
    batch = collate([item(3, x=torch.zeros(2)), item(8, x=torch.zeros(2))])
    assert batch.time.tolist() == [3.5, 8.5]
    assert batch.time.dtype == torch.float64
    assert batch.event.tolist() == [False, True]
    assert batch.event.dtype == torch.bool
    assert batch.patients == ["p3", "p8"]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=5), st.integers(2, 3))
def test_ragged_bags_are_padded_and_masked(lengths, columns):
    bags = [bag(n, start=10.0 * i, columns=columns) for i, n in enumerate(lengths)]
    together = collate([item(i, slide=b) for i, b in enumerate(bags)]).inputs["slide"]
    assert isinstance(together, PatchBag)
    assert together.features.shape == (len(lengths), max(lengths), 3)
    assert together.mask.sum(dim=1).tolist() == lengths
    for row, (one, n) in enumerate(zip(bags, lengths, strict=True)):
        assert torch.equal(together.features[row, :n], one.features)
        assert torch.equal(together.coords[row, :n], one.coords)
        assert together.mask[row, :n].all()
        # Padding is zeros, not what an earlier batch left in memory.
        assert not together.features[row, n:].any()
        assert not together.coords[row, n:].any()


def test_half_precision_features_stay_so():
    together = collate(
        [item(0, slide=bag(2, dtype=torch.float16)), item(1, slide=bag(1, dtype=torch.float16))]
    )
    assert together.inputs["slide"].features.dtype == torch.float16


def test_table_rows_are_stacked_with_their_masks():
    rows = [
        Masked(torch.tensor([1.0, 0.0]), torch.tensor([True, False])),
        Masked(torch.zeros(2), torch.zeros(2, dtype=torch.bool)),
    ]
    together = collate([item(i, rna=row) for i, row in enumerate(rows)]).inputs["rna"]
    assert together.values.tolist() == [[1.0, 0.0], [0.0, 0.0]]
    assert together.mask.tolist() == [[True, False], [False, False]]


def test_volumes_of_one_size_need_one_flag_each():
    rows = [
        Masked(torch.ones(2, 3, 1), torch.tensor(True)),
        Masked(torch.zeros(2, 3, 1), torch.tensor(False)),
    ]
    together = collate([item(i, ct=row) for i, row in enumerate(rows)]).inputs["ct"]
    assert together.values.shape == (2, 2, 3, 1)
    assert together.mask.tolist() == [True, False]


def test_volumes_of_different_sizes_are_padded_with_a_mask_per_voxel():
    small, large = torch.full((2, 5, 1), 7.0), torch.full((3, 4, 1), 8.0)
    for flags in (
        [torch.tensor(True)] * 2,
        [torch.ones(2, 5, dtype=torch.bool), torch.tensor(True)],
    ):
        rows = [Masked(small, flags[0]), Masked(large, flags[1])]
        together = collate([item(i, ct=row) for i, row in enumerate(rows)]).inputs["ct"]
        assert together.values.shape == (2, 3, 5, 1)
        assert together.mask.shape == (2, 3, 5)
        assert torch.equal(
            together.values.squeeze(-1) == 7.0, together.mask & torch.tensor([True, False])[:, None, None]
        )
        assert together.mask.sum(dim=(1, 2)).tolist() == [10, 12]


def test_plain_tensors_of_one_shape_stay_plain_and_others_become_masked():
    same = collate([item(0, x=torch.ones(2, 3)), item(1, x=torch.zeros(2, 3))]).inputs["x"]
    assert torch.equal(same, torch.stack([torch.ones(2, 3), torch.zeros(2, 3)]))
    ragged = collate([item(0, x=torch.ones(2, 3)), item(1, x=torch.ones(4, 3))]).inputs["x"]
    assert isinstance(ragged, Masked)
    assert ragged.mask.tolist() == [[True, True, False, False], [True] * 4]
    assert ragged.values.sum() == 18


class Visits(NamedTuple):
    values: torch.Tensor
    times: torch.Tensor
    mask: torch.Tensor


@pytest.mark.parametrize(
    "shapes", [[(3, 5), (7, 5)], [(3, 5, 2), (4, 2, 2)], [(0, 5), (2, 5)], [(600, 999)] * 2]
)
def test_padding_is_zero_whatever_the_memory_held(monkeypatch, shapes):
    new = lambda shape, dtype: torch.full(shape, 7, dtype=dtype)  # noqa: E731
    monkeypatch.setattr("healnet.data.collate_fn._new", new)
    parts = [torch.rand(shape, requires_grad=True) for shape in shapes]
    batch = collate([item(i, x=part) for i, part in enumerate(parts)]).inputs["x"]
    values = batch if isinstance(batch, torch.Tensor) else batch.values
    for row, part in zip(values, parts, strict=True):
        assert torch.equal(row[tuple(map(slice, part.shape))], part)
        assert row.sum().item() == pytest.approx(part.sum().item(), rel=1e-5)
    values.sum().backward()  # tensors that are learned may be collated too
    assert all((part.grad == 1).all() for part in parts)


def test_any_named_tuple_with_a_mask_is_padded_field_by_field():
    rows = [
        Visits(torch.ones(2, 3), torch.tensor([1, 2]), torch.tensor([True, True])),
        Visits(torch.ones(1, 3), torch.tensor([5]), torch.tensor([True])),
    ]
    together = collate([item(i, visits=row) for i, row in enumerate(rows)]).inputs["visits"]
    assert isinstance(together, Visits)
    assert together.times.tolist() == [[1, 2], [5, 0]]
    assert together.times.dtype == torch.int64
    assert together.mask.tolist() == [[True, True], [True, False]]


def test_a_batch_moves_as_a_whole():
    moved = collate([item(0, slide=bag(2), x=torch.ones(2)), item(1, slide=bag(1), x=torch.ones(2))]).to(
        "meta"
    )
    assert {moved.time.device.type, moved.event.device.type, moved.ids.device.type} == {"meta"}
    assert isinstance(moved.inputs["slide"], PatchBag)
    assert {field.device.type for field in (*moved.inputs["slide"], moved.inputs["x"])} == {"meta"}
    assert Batch({"x": None}, *moved[1:]).to("meta").inputs == {"x": None}


def test_masked_values_may_be_anything():
    row = Masked(torch.tensor([1.0, torch.nan]), torch.tensor([True, False]))
    assert torch.isnan(collate([item(0, rna=row)]).inputs["rna"].values[0, 1])


INFINITE_BAG = bag(3)._replace(features=torch.tensor([[1.0], [2.0], [torch.inf]]).expand(3, 3))


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "expected at least one item to collate"),
        (
            [item(4, rna=torch.zeros(2)), item(7, cnv=torch.zeros(2))],
            "patient 'p7' has the inputs ['cnv'], patient 'p4' ['rna']; an absent modality is one with a mask of False",
        ),
        (
            [item(4, rna=torch.zeros(2)), item(7, rna=bag(2))],
            "modality 'rna': patient 'p7' is a PatchBag, the first a Tensor",
        ),
        (
            [item(4, slide=bag(2)), item(7, slide=bag(2, width=5))],
            "modality 'slide': features of patient 'p7' have shape (2, 5), those of patient 'p4' (2, 3); "
            "they may differ in the first axis only",
        ),
        (
            [
                item(4, ct=Masked(torch.ones(2, 3, 1), torch.tensor(True))),
                item(7, ct=Masked(torch.ones(2, 3, 2), torch.tensor(True))),
            ],
            "modality 'ct': values of patient 'p7' have shape (2, 3, 2), those of patient 'p4' (2, 3, 1); "
            "they may differ in the first 2 axes only",
        ),
        (
            [item(4, rna=[1.0])],
            "modality 'rna': expected tensors or NamedTuples with a mask, got list",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(items, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        collate(items)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            INFINITE_BAG,
            "modality 'x', patient 'p7': expected finite values, got inf; what is missing is masked, or left out",
        ),
        (
            torch.tensor([torch.nan]),
            "modality 'x', patient 'p7': expected finite values, got nan; what is missing is masked, or left out",
        ),
        (
            Masked(torch.tensor([[torch.inf]]), torch.tensor(True)),
            "modality 'x', patient 'p7': expected finite values, got inf; what is missing is masked, or left out",
        ),
    ],
)
def test_numbers_that_are_not_finite_are_refused_by_name(value, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        item(7, x=value)


def test_a_batch_of_several_names_the_modality():
    values = torch.tensor([[0.0], [torch.nan]])
    with pytest.raises(
        ValueError, match=r"^modality 'x': expected finite values, got nan; what is missing is masked"
    ):
        Batch.of({"x": values}, ["a", "b"])
    assert Batch.of({"x": Masked(values, torch.tensor([True, False]))}, ["a", "b"]).patients == ["a", "b"]


def test_a_mask_over_the_axes_hides_numbers_whose_channels_come_first():
    scans, mask = (
        torch.zeros(2, 3, 4, 5),
        torch.ones(2, 4, 5, dtype=torch.bool),
    )  # (b, c, *axes) and (b, *axes)
    scans[1, :, 2, 3], mask[1, 2, 3] = torch.nan, False
    assert Batch.of({"x": Masked(scans, mask)}, ["a", "b"]).patients == ["a", "b"]
    scans[0, 1, 2, 3] = -torch.inf
    with pytest.raises(
        ValueError, match=r"^modality 'x': expected finite values, got -inf; what is missing is masked"
    ):
        Batch.of({"x": Masked(scans, mask)}, ["a", "b"])


def test_a_batch_is_short_to_read():
    rows = (
        Masked(torch.ones(3), torch.tensor([True, False, False])),
        Masked(torch.zeros(3), torch.zeros(3).bool()),
    )
    items = [item(i, rna=row, slide=bag(2), x=torch.ones(2)) for i, row in enumerate(rows)]
    assert repr(collate(items)) == "Batch(2 patients, rna 2x3 (1 have it), slide 2x2x3, x 2x2, time, event)"
    assert repr(items[0]) == "Batch(1 patient, rna 3, slide 2x3, x 2, time, event)"
    assert repr(Batch.of({"x": None}, ["a"])) == "Batch(1 patients, x absent)"
    assert "ids" not in repr(collate(items).to("meta"))


@given(
    st.lists(
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1), max_size=4
    )
)
def test_ids_come_back_as_they_were(names):
    assert Batch.of({}, names).patients == names
    for name in names:
        assert Batch.of({}, name).patients == [name]


def test_items_with_and_without_outcomes_do_not_mix():
    without = Batch.of({"x": torch.ones(2)}, "p9")
    message = (
        "patient 'p9' has the outcomes [], patient 'p1' ['event', 'time']; "
        "patients without outcomes make a batch of their own"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        collate([item(1, x=torch.ones(2)), without])
