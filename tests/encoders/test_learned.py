"""Any network as an encoder."""

import pytest
import torch
from torch import nn

from healnet import HEALNet, Masked
from healnet.encoders import LearnedEncoder
from healnet.testing import check_encoder, check_model


class SmallCNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 5, kernel_size=2, stride=2)

    def forward(self, x):
        return self.convolution(x).flatten(2).transpose(1, 2)


def ragged(module, token_dim):
    """An encoder whose tokens are blocks of 2 x 2 pixels: real if any pixel is."""

    def blocks(mask):
        return nn.functional.max_pool2d(mask.float(), 2).flatten(1) > 0

    return LearnedEncoder(module, token_dim, mask=blocks, channels_first=True)


def test_masks_of_elements_shrink_with_the_network():
    torch.manual_seed(0)
    images, mask = torch.randn(2, 3, 4, 6), torch.ones(2, 4, 6, dtype=torch.bool)
    mask[1, :, 2:] = False  # the second image is 4 x 2
    tokens = ragged(cnn := SmallCNN(), 5)(Masked(images, mask))
    assert tokens.mask.tolist() == [[True] * 6, [True, False, False] * 2]
    narrow = cnn(images[1:, :, :, :2])
    torch.testing.assert_close(tokens.values[1][tokens.mask[1]], narrow[0], rtol=0, atol=1e-6)
    check_encoder(ragged(cnn, 5), images)


def test_tokens_are_what_the_module_makes():
    images = torch.randn(2, 3, 4, 4)
    cnn = SmallCNN()
    tokens = LearnedEncoder(cnn, 5)(Masked(images, torch.tensor([True, False])))
    torch.testing.assert_close(tokens.values[0], cnn(images)[0], rtol=0, atol=0)
    assert tokens.mask.tolist() == [[True] * 4, [False] * 4]


def test_the_module_sees_zeros_where_nothing_is_real():
    values, mask = torch.full((2, 3, 4), float("nan")), torch.tensor([[True, True, False], [False] * 3])
    values[0, :2] = 5
    tokens = LearnedEncoder(nn.Identity(), 4, mask=torch.clone)(Masked(values, mask))
    assert tokens.values[..., 0].tolist() == [[5, 5, 0], [0, 0, 0]]


def test_gradients_flow_into_the_module_and_not_into_the_absent():
    images = torch.randn(2, 3, 4, 4, requires_grad=True)
    model = HEALNet({"image": LearnedEncoder(SmallCNN(), 5)}, out_dim=1)
    model({"image": Masked(images, torch.tensor([True, False]))}).sum().backward()
    assert model.encoders["image"].module.convolution.weight.grad.abs().sum() > 0
    assert images.grad[0].abs().sum() > 0
    assert images.grad[1].abs().sum() == 0


def test_laws():
    torch.manual_seed(0)
    images = torch.randn(3, 3, 4, 6)
    check_encoder(LearnedEncoder(SmallCNN(), 5), images, wrong=[Masked(images, torch.ones(2).bool())])
    elements = Masked(torch.randn(3, 7, 4), torch.rand(3, 7) < 0.7)
    check_encoder(
        LearnedEncoder(nn.Linear(4, 5), 5, mask=torch.clone),
        elements,
        wrong=[elements._replace(mask=elements.mask[:, :6])],
    )
    check_model(HEALNet({"image": LearnedEncoder(SmallCNN(), 5)}), {"image": images})


def test_the_kit_needs_no_wrong_examples():
    check_encoder(LearnedEncoder(SmallCNN(), 5), torch.randn(2, 3, 4, 6))


def test_what_the_module_cannot_take_is_refused_by_name():
    model = HEALNet({"ct": LearnedEncoder(SmallCNN(), 5)})
    with pytest.raises(
        ValueError,
        match=r"^modality 'ct': the module cannot take torch.float32 of shape \(2, 4, 8, 8\): Given groups=1",
    ) as raised:
        model({"ct": torch.zeros(2, 4, 8, 8)})
    assert type(raised.value.__cause__.__cause__) is RuntimeError

    class TooLarge(nn.Module):
        def forward(self, x):
            raise torch.OutOfMemoryError("no memory")

    with pytest.raises(torch.OutOfMemoryError, match=r"^no memory$"):
        LearnedEncoder(TooLarge(), 5)(torch.zeros(2, 3))


def test_wrong_shapes_are_refused():
    with pytest.raises(
        ValueError, match=r"^expected the module to return a shape of \(b, n, 6\), got \(2, 4, 5\)$"
    ):
        LearnedEncoder(SmallCNN(), 6)(torch.zeros(2, 3, 4, 4))
    with pytest.raises(
        ValueError, match=r"^expected the module to return a shape of \(b, n, 4\), got \(2, 4\)$"
    ):
        LearnedEncoder(nn.Identity(), 4)(torch.zeros(2, 4))
    with pytest.raises(
        ValueError,
        match=r"^expected a mask of shape \(2,\), got \(2, 3\); a mask of elements needs LearnedEncoder\(...",
    ):
        LearnedEncoder(SmallCNN(), 5)(Masked(torch.zeros(2, 3, 4, 4), torch.ones(2, 3).bool()))
    with pytest.raises(ValueError, match=r"^expected a mask of shape \(2,\), got \(3,\)$"):
        LearnedEncoder(SmallCNN(), 5)(Masked(torch.zeros(2, 3, 4, 4), torch.ones(3).bool()))
    with pytest.raises(ValueError, match=r"^expected a mask of shape \(2,\) or \(2, 4, 4\), got \(2, 3\)$"):
        ragged(SmallCNN(), 5)(Masked(torch.zeros(2, 3, 4, 4), torch.ones(2, 3).bool()))
    encoder = LearnedEncoder(SmallCNN(), 5, mask=lambda m: m.flatten(1), channels_first=True)
    with pytest.raises(
        ValueError,
        match=r"^expected mask\(\) to make a mask of the tokens \(2, 4\) of one of shape \(2, 4, 4\), got \(2, 16\)$",
    ):
        encoder(Masked(torch.zeros(2, 3, 4, 4), torch.ones(2, 4, 4).bool()))
    with pytest.raises(ValueError, match=r"^expected token_dim to be positive, got 0$"):
        LearnedEncoder(nn.Identity(), 0)
