import math

import pytest
import torch

from healnet import Tokens


def test_standardized_by_hand():
    # mean 2, population variance 8/3; mean 5, variance 0
    tokens = Tokens(torch.tensor([[[0.0, 2.0, 4.0], [5.0, 5.0, 5.0]]], dtype=torch.float64))
    z = 2 / math.sqrt(8 / 3 + 1e-5)
    expected = torch.tensor([[[-z, 0.0, z], [0.0, 0.0, 0.0]]], dtype=torch.float64)
    torch.testing.assert_close(tokens.standardized(), expected, rtol=0, atol=1e-12)


def test_standardized_is_computed_once_and_in_full_precision():
    tokens = Tokens(torch.tensor([[[1.0, 2.0, 3.0]]], dtype=torch.float16))
    first = tokens.standardized(torch.float64)
    assert first.dtype == torch.float64
    assert tokens.standardized(torch.float64) is first
    z = 1 / math.sqrt(2 / 3 + 1e-5)
    torch.testing.assert_close(
        first[0, 0], torch.tensor([-z, 0, z], dtype=torch.float64), rtol=1e-6, atol=1e-6
    )


def test_each_type_of_standardized_tokens_is_its_own():
    tokens = Tokens(torch.tensor([[[1.0, 2.0, 4.0]]]))
    assert tokens.standardized(torch.float16).dtype == torch.float16
    full = tokens.standardized(torch.float32)
    assert full.dtype == torch.float32
    torch.testing.assert_close(full, Tokens(tokens.values).standardized(), rtol=0, atol=0)
    assert tokens.standardized().dtype == torch.float32


def test_statistics_are_taken_before_rounding():
    """1000 and 1001 are one number in bfloat16."""
    z = Tokens(torch.tensor([[[1000.0, 1001.0]]])).standardized(torch.bfloat16)
    assert z.dtype == torch.bfloat16
    assert z.tolist() == [[[-1.0, 1.0]]]


def test_masked_tokens_are_zero_and_get_no_gradient_even_from_nan():
    values = torch.tensor([[[1.0, 3.0], [math.nan, 1.0]]], requires_grad=True)
    z = Tokens(values, torch.tensor([[True, False]])).standardized()
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
            "expected floating-point values of shape (b, n, c), got torch.float32 of shape (3, 2)",
        ),
        (
            torch.zeros(3, 2, 5, dtype=torch.long),
            None,
            "expected floating-point values of shape (b, n, c), got torch.int64 of shape (3, 2, 5)",
        ),
        (
            torch.zeros(3, 2, 5),
            torch.ones(3, 5, dtype=torch.bool),
            "expected a bool mask of shape (3, 2), got torch.bool of shape (3, 5)",
        ),
        (
            torch.zeros(3, 2, 5),
            torch.ones(3, 2),
            "expected a bool mask of shape (3, 2), got torch.float32 of shape (3, 2)",
        ),
    ],
)
def test_wrong_tokens_are_refused(values, mask, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole message is compared
        Tokens(values, mask)
    assert str(error.value) == message
