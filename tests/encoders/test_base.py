import pytest
import torch

from healnet import Tokens
from healnet.encoders import ModalityEncoder


def test_an_encoder_without_forward_cannot_be_made():
    with pytest.raises(TypeError, match=r"abstract method '?forward'?"):
        type("Nothing", (ModalityEncoder,), {})()


def test_tokens_are_what_an_encoder_returns():
    class Identity(ModalityEncoder):
        token_dim = 3

        def forward(self, inputs):
            return Tokens(inputs)

    assert Identity()(torch.ones(1, 2, 3)).values.tolist() == [[[1.0] * 3] * 2]
