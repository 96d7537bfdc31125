import re

import pytest
import torch

from healnet import Masked, Tokens
from healnet.encoders import ModalityEncoder
from healnet.encoders.base import element_mask, unmask


def test_an_encoder_without_forward_cannot_be_made():
    with pytest.raises(TypeError, match=r"abstract method '?forward'?"):
        type("Nothing", (ModalityEncoder,), {})()


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


def test_tokens_are_what_an_encoder_returns():
    class Identity(ModalityEncoder):
        token_dim = 3

        def forward(self, inputs):
            return Tokens(inputs)

    assert Identity()(torch.ones(1, 2, 3)).values.tolist() == [[[1.0] * 3] * 2]
