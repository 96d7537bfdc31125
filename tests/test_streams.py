import re

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from healnet import Pieces, Stream
from healnet.inputs import batch_size, hide, move, present, real_elements, repeat, take
from healnet.streams import DIGEST


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(1, 9)), min_size=1, max_size=3), st.booleans())
def test_blocks_hold_every_element_once(axes, channels):
    sizes, block = zip(*axes, strict=True)
    values = torch.arange(int(np.prod(sizes)) * 2, dtype=torch.float64).reshape(*sizes, 2)
    values = values if channels else values[..., 0]
    pieces = Pieces(values, block)
    found = torch.full_like(values, -1.0)
    for part, piece, mask in pieces.walk():
        assert mask is None
        assert (found[part] == -1).all()
        found[part] = piece
    assert torch.equal(found, values)


@given(st.tuples(st.integers(0, 7), st.integers(1, 5)), st.integers(1, 4), st.integers(1, 3))
def test_parts_of_parts_are_disjoint_and_together_the_whole(sizes, parts, parts_of_each):
    scan = Pieces(torch.zeros(*sizes, 2), (2, 2))
    dealt = [scan.part(i, parts).part(j, parts_of_each) for i in range(parts) for j in range(parts_of_each)]
    found = [tuple(map(str, block)) for part in dealt for block in part.blocks()]
    assert sorted(found) == sorted(tuple(map(str, block)) for block in scan.blocks())
    assert {part.sizes for part in dealt} == {sizes}
    assert max(len(part.blocks()) for part in dealt) <= -(-len(scan.blocks()) // len(dealt))


def test_a_part_knows_the_whole():
    mask, coords = torch.arange(7) != 3, torch.tensor([[5, 7]] * 6 + [[90, 8]])
    part = Pieces(torch.zeros(7, 2), (2,), mask=mask, coords=coords).part(1, 2)
    assert [block for block, _, _ in part.walk()] == [(slice(2, 4),), (slice(6, 7),)]
    assert part.real == 6
    assert [box.tolist() for box in part.boxes] == [[[5, 7]], [[90, 8]]]
    with pytest.raises(ValueError, match=r"^expected a part from 0 to 1, got 2$"):
        part.part(2, 2)


def test_sources_on_disk_are_read_as_they_are(tmp_path):
    numbers = np.random.default_rng(0).normal(size=(11, 3)).astype(np.float32)
    mapped = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.float32, shape=(11, 3))
    mapped[:] = numbers
    mapped.flush()
    with h5py.File(tmp_path / "x.h5", "w") as file:
        dataset = file.create_dataset("features", data=numbers)
        for source in (np.load(tmp_path / "x.npy", mmap_mode="r"), dataset):
            parts = [values for _, values, _ in Pieces(source, (4,)).walk()]
            assert [len(part) for part in parts] == [4, 4, 3]
            assert torch.equal(torch.cat(parts), torch.from_numpy(numbers))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"block": (2, 2, 2, 2)},
            "expected a block with one size per axis of values (5, 4, 3), channels left out or not, got (2, 2, 2, 2)",
        ),
        ({"block": (2, 0)}, "expected a block of at least 1 element per axis, got (2, 0)"),
        ({"block": (2, 2), "mask": torch.ones(5, 3)}, "expected a mask of shape (5, 4), got (5, 3)"),
        ({"block": (2, 2), "coords": torch.ones(5, 2)}, "expected coords of shape (5, 2), got (5, 2)"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Pieces(torch.zeros(5, 4, 3), **arguments)


def test_what_is_not_finite_is_refused_unless_masked():
    values = torch.zeros(6, 2)
    values[4, 1] = torch.nan
    with pytest.raises(ValueError, match=r"^expected finite values, got others in block \[3:6\]$"):
        list(Pieces(values, (3,)).walk())
    mask = torch.arange(6) != 4
    assert sum(int(shown.sum()) for _, _, shown in Pieces(values, (3,), mask=mask).walk()) == 5
    with pytest.raises(ValueError, match=r"^expected finite values, got others in block \[3:6\]$"):
        list(Pieces(values, (3,), mask=~mask).walk())


def test_a_mask_of_numbers_is_refused():
    with pytest.raises(ValueError, match=r"^expected a bool mask \(True = real\), got torch\.float32$"):
        list(Pieces(torch.zeros(6, 2), (3,), mask=torch.ones(6)).walk())


def test_boxes_are_those_of_the_real_patches_of_each_slide():
    coords = torch.tensor([[5, 7, 0], [1, 9, 0], [90, 2, 1], [-50, -50, 1]])
    pieces = Pieces(torch.zeros(4, 3), (2,), mask=torch.tensor([True, True, True, False]), coords=coords)
    low, high = pieces.boxes
    assert low.tolist() == [[1, 7], [90, 2]]
    assert high.tolist() == [[5, 9], [90, 2]]
    with pytest.raises(ValueError, match=r"^expected pieces with coords, got none$"):
        _ = Pieces(torch.zeros(4, 3), (2,)).boxes


class TestStream:
    @pytest.fixture
    def stream(self):
        masked = Pieces(torch.zeros(3, 2), (2,), mask=torch.zeros(3, dtype=torch.bool))
        return Stream([Pieces(torch.ones(4, 2), (3,)), None, masked, Pieces(torch.ones(0, 2), (3,))])

    def test_who_has_something_real(self, stream):
        assert present(stream).tolist() == [True, False, False, False]
        assert batch_size({"slide": None, "scan": stream}) == 4

    def test_it_is_taken_repeated_hidden_and_moved_like_other_inputs(self, stream):
        assert take(stream, torch.tensor([2, 0])).patients == (stream.patients[2], stream.patients[0])
        assert take(stream, torch.tensor([True, False, False, True])).patients[1] is stream.patients[3]
        assert repeat(stream, 2).patients == stream.patients * 2
        assert hide(stream, torch.tensor([True, False, False, False])).patients == (
            None,
            *stream.patients[1:],
        )
        assert move(stream, "meta").device == torch.device("meta")
        assert stream.device == torch.device("cpu")

    def test_patients_take_turns_in_who_gives_the_first_block(self, stream):
        first, second = stream.part(0, 2), stream.part(1, 2)
        assert first.patients[1] is None
        assert [len(p.blocks()) for p in (first.patients[0], second.patients[0])] == [1, 1]
        assert [len(p.blocks()) for p in (first.patients[2], second.patients[2])] == [1, 1]
        small = Stream([Pieces(torch.ones(1, 2), (3,))] * 3)
        assert present(small.part(0, 2)).tolist() == [True, False, True]
        assert present(small.part(1, 2)).tolist() == [False, True, False]

    def test_elements_are_hidden_by_a_mask(self):
        mask, coords = torch.tensor([True, False, True]), torch.tensor([[1, 1], [9, 9], [5, 2]])
        stream = Stream([Pieces(torch.ones(4, 2), (3,)), None, Pieces(torch.ones(3, 2), (2,), mask, coords)])
        assert stream.patients[2].boxes[1].tolist() == [[5, 2]]
        assert real_elements(stream).int().tolist() == [[1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 1, 0]]
        gone = torch.zeros(3, 4, dtype=torch.bool)
        gone[:, 2:] = True
        hidden = hide(stream, gone)
        assert real_elements(hidden).int().tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]
        assert (hidden.patients[2].real, hidden.patients[2].boxes[1].tolist()) == (1, [[1, 1]])
        assert real_elements(hide(stream, gone[:1]))[0].int().tolist() == [1, 1, 0, 0]
        assert hide(stream, ~gone[:1] & False).patients == stream.patients
        second = stream.part(1, 2).hide(gone).patients[0]
        assert [block for block, _, _ in second.walk()] == []
        assert [block for block, _, _ in second.hide(torch.zeros(4, dtype=torch.bool)).walk()] == []
        assert real_elements(stream.part(1, 2)).int().tolist() == [[0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 1, 0]]

    def test_patients_are_pieces_or_none(self):
        with pytest.raises(ValueError, match=r"^expected Pieces or None for patient 1, got Tensor$"):
            Stream([None, torch.zeros(3)])
        with pytest.raises(ValueError, match=r"^expected at least one patient, got none$"):
            Stream([])

    def test_what_it_looks_like(self, stream):
        assert repr(stream).startswith("Stream([Pieces(4, 2 channels, block (3,)), None,")


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 4), st.data())
def test_parts_add_up_to_the_whole_only_if_no_block_is_missing_or_twice(rows, block, parts, data):
    pieces = Pieces(torch.zeros(rows, 2, 1), block=(block, 2))
    blocks, whole = pieces.blocks(), pieces.digests()[1]
    chosen = [data.draw(st.integers(0, parts - 1)) for _ in range(parts)]
    found = [pieces.part(number, parts) for number in chosen]
    assert {part.digests()[1] for part in found} == {whole}
    read = sorted(str(b) for part in found for b in part.blocks())
    complete = sum(part.digests()[0] for part in found) % DIGEST == whole
    assert complete == (read == sorted(map(str, blocks)))
