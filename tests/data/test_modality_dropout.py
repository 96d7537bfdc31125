import re
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from healnet.data import ModalityDropout
from healnet.encoders import GraphEncoder
from healnet.inputs import Graph, Masked, PatchBag


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def mixed(present):
    """Three kinds of input with the given (b, 3) presence; a plain tensor is everybody's."""
    b = len(present)
    rna = Masked(torch.arange(b * 5.0).reshape(b, 5), present[:, :1] & (torch.arange(5) != 2))
    bag = PatchBag(torch.ones(b, 7, 3), torch.zeros(b, 7, 2), present[:, 1:2] & (torch.arange(7) < 4))
    ct = Masked(torch.ones(b, 2, 3, 1), present[:, 2])
    return {"rna": rna, "slide": bag, "ct": ct}


def presence(inputs):
    return torch.stack(
        [value.mask.reshape(len(value.mask), -1).any(dim=1) for value in inputs.values()], dim=1
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.floats(0, 1), st.integers(0, 2**31))
def test_it_hides_but_never_adds_and_never_leaves_a_patient_with_nothing(b, p, seed):
    present = torch.rand(b, 3, generator=seeded(seed)) < 0.6
    before, after = mixed(present), ModalityDropout(p)(mixed(present), generator=seeded(seed))
    assert list(after) == list(before)
    for name in before:
        assert type(after[name]) is type(before[name])
        # All of a modality or nothing: within it no element is hidden alone.
        kept = after[name].mask.reshape(b, -1).any(dim=1)
        shape = (-1, *[1] * (after[name].mask.dim() - 1))
        assert torch.equal(after[name].mask, before[name].mask & kept.reshape(shape))
        for new, old in zip(after[name][:-1], before[name][:-1], strict=True):
            assert torch.equal(new, old)
    assert torch.equal(presence(after).any(dim=1), present.any(dim=1))


def test_it_hides_with_probability_p():
    b = 20_000
    inputs = {name: torch.zeros(b, 1) for name in "abcd"}
    kept = presence(ModalityDropout(0.3)(inputs, generator=seeded()))
    # One of four is kept although all were drawn, in 0.3^4 of the patients: 0.7 + 0.3^4 / 4 are kept.
    expected = 0.7 + 0.3**4 / 4
    assert kept.float().mean(dim=0).tolist() == pytest.approx([expected] * 4, abs=0.012)
    assert int((kept.sum(dim=1) == 0).sum()) == 0
    # Independent between modalities.
    both = (kept[:, 0] & kept[:, 1]).float().mean().item()
    assert both == pytest.approx(0.49, abs=0.012)


def test_at_one_a_patient_keeps_one_of_what_they_have_each_as_often():
    present = torch.tensor([[True, True, False]]).expand(9000, 3)
    kept = presence(ModalityDropout(1.0)(mixed(present), generator=seeded()))
    assert (kept.sum(dim=1) == 1).all()
    assert kept.float().mean(dim=0).tolist() == pytest.approx([0.5, 0.5, 0.0], abs=0.02)


def test_a_plain_tensor_becomes_masked():
    values = torch.randn(64, 3)
    hidden = ModalityDropout(0.5)({"rna": values, "age": torch.zeros(64, 1)}, generator=seeded())
    assert isinstance(hidden["rna"], Masked)
    assert hidden["rna"].values is values
    assert hidden["rna"].mask.shape == (64,)
    assert 0 < int(hidden["rna"].mask.sum()) < 64


def test_it_is_reproducible_by_generator():
    inputs = mixed(torch.ones(32, 3, dtype=torch.bool))
    dropout = ModalityDropout(0.5)
    first, same, other = (presence(dropout(inputs, generator=seeded(s))) for s in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    torch.manual_seed(7)
    drawn = presence(dropout(inputs))
    torch.manual_seed(7)
    assert torch.equal(drawn, presence(dropout(inputs)))


def test_nothing_is_hidden_in_evaluation_or_at_zero():
    inputs = mixed(torch.ones(8, 3, dtype=torch.bool))
    for dropout in (ModalityDropout(0.9).eval(), ModalityDropout(0.0)):
        after = dropout(inputs)
        assert all(after[name] is inputs[name] for name in inputs)


def test_the_callers_mapping_and_masks_are_left_alone():
    inputs = mixed(torch.ones(8, 3, dtype=torch.bool))
    masks = {name: value.mask.clone() for name, value in inputs.items()}
    ModalityDropout(1.0)(inputs, generator=seeded())
    assert all(torch.equal(inputs[name].mask, masks[name]) for name in inputs)


def test_what_is_absent_for_all_stays_absent():
    after = ModalityDropout(0.5)({"rna": torch.zeros(4, 2), "ct": None}, generator=seeded())
    assert after["ct"] is None
    assert after["rna"].mask.all()
    assert ModalityDropout(0.5)({}) == {}


class Visits(NamedTuple):
    values: torch.Tensor
    times: torch.Tensor
    mask: torch.Tensor


def test_any_named_tuple_with_a_mask_will_do():
    visits = Visits(torch.ones(4, 3, 2), torch.zeros(4, 3), torch.ones(4, 3, dtype=torch.bool))
    after = ModalityDropout(1.0)({"visits": visits, "age": torch.zeros(4, 1)}, generator=seeded())
    assert isinstance(after["visits"], Visits)
    assert torch.equal(after["visits"].mask.any(dim=1), ~after["age"].mask)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ModalityDropout(1.5), "expected a probability p in [0, 1], got 1.5"),
        (
            lambda: ModalityDropout(0.5)({"rna": [1.0]}),
            "modality 'rna': expected a tensor or a NamedTuple with a mask, got list",
        ),
        (
            lambda: ModalityDropout(0.5)({"rna": torch.zeros(3, 2), "cnv": torch.zeros(4, 2)}),
            "modality 'cnv' has 4 patients, modality 'rna' has 3",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


def test_a_hidden_graph_loses_its_edges_so_that_its_encoder_takes_it():
    graph = Graph.stack([Graph.of(torch.ones(3, 2), torch.tensor([[0, 1], [1, 2]]))] * 8)
    inputs = {"cells": graph, "rna": torch.ones(8, 3)}
    hidden = ModalityDropout(0.5)(inputs, generator=seeded())["cells"]
    kept = hidden.mask.any(dim=1)
    assert 0 < int(kept.sum()) < 8
    assert torch.equal(hidden.edge_mask, kept.unsqueeze(1).expand(8, 2))
    assert torch.equal(GraphEncoder(2)(hidden).present, kept)
