from typing import NamedTuple

import pytest
import torch

from healnet import Tokens
from healnet.testing.law import LawBrokenError, Laws, real_tokens, tensors


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


def test_tensors_are_named_by_their_place():
    x = torch.zeros(1)
    assert list(tensors(x)) == [""]
    assert list(tensors({"risk": x, "more": (x, [x])})) == ["risk", "more.0", "more.1.0"]
    assert list(tensors(Pair(x, x))) == ["first", "second"]
    assert tensors("text") == tensors(None) == {}


def test_real_tokens_of_one_patient():
    values = torch.arange(6.0).view(1, 3, 2)
    assert real_tokens(Tokens(values, torch.tensor([[True, False, True]])), 0).tolist() == [[0, 1], [4, 5]]
    assert real_tokens(Tokens(values), 0).tolist() == values[0].tolist()


def test_every_exception_breaks_the_law_and_names_it():
    laws = Laws("modality 'rna' (Mine)")
    message = r"^modality 'rna' \(Mine\): a law: got KeyError: 6; likely cause: a reason$"
    with pytest.raises(LawBrokenError, match=message) as raised, laws.holds("a law", "a reason"):
        {}[6]
    assert isinstance(raised.value.__cause__, KeyError)
    with pytest.raises(LawBrokenError, match=r"^modality 'rna' \(Mine\): b law: found$"), laws.holds("a law"):
        raise laws.broken("b law", "found")  # is not wrapped a second time


def test_same_is_to_rounding_of_float64():
    laws, x = Laws("model"), torch.tensor([1000.0], dtype=torch.float64)
    laws.same("law", {"a": x}, {"a": x + 1e-8})
    laws.same("law", x[:0], x[:0])
    with pytest.raises(LawBrokenError, match=r"^model: law \(a\): the largest difference is 1e-06$"):
        laws.same("law", {"a": x}, {"a": x + 1e-6})
    with pytest.raises(LawBrokenError, match=r"^model: law: the largest difference is nan$"):
        laws.same("law", x, x * torch.nan)
    with pytest.raises(LawBrokenError, match=r"^model: law: expected shape \(1,\), got \(2,\)$"):
        laws.same("law", x, torch.zeros(2))
    with pytest.raises(LawBrokenError, match=r"^model: law: expected parts \['a'\], got \['b'\]$"):
        laws.same("law", {"a": x}, {"b": x})


def test_tokens_are_compared_without_their_padding():
    laws, x = Laws("encoder"), torch.tensor([[[1.0], [2.0], [7.0]]])
    mask = torch.tensor([[True, True, False]])
    laws.same_tokens("law", Tokens(x[:, :2]), Tokens(x, mask))
    with pytest.raises(LawBrokenError, match=r"^encoder: law: expected 2 real tokens of patient 0, got 3$"):
        laws.same_tokens("law", Tokens(x[:, :2]), Tokens(x))


def test_unchanged_is_bit_for_bit():
    laws, x = Laws("encoder"), torch.zeros(2)
    laws.unchanged("law", Pair(x, x), Pair(x, x.clone()))
    with pytest.raises(LawBrokenError, match=r"^encoder: law: second changed$"):
        laws.unchanged("law", Pair(x, x), Pair(x, x + 1e-30))
