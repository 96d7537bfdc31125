"""The kit is tested on encoders that break each law, and on correct ones of every kind."""

import re

import pytest
import torch
from einops.layers.torch import Rearrange
from torch import nn

from healnet import Graph, Masked, PatchBag, TimeSeries, Tokens
from healnet.encoders import (
    GraphEncoder,
    GridEncoder,
    LearnedEncoder,
    ModalityEncoder,
    OmicEncoder,
    PatchEncoder,
    SequenceEncoder,
)
from healnet.inputs import element_mask, unmask
from healnet.testing import LawBrokenError, check_encoder


def normal(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


class Angles(ModalityEncoder):
    """A table (b, n): a token per value. Correct; the broken ones below change one thing each."""

    token_dim = 2

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))

    def values(self, x, mask):
        return torch.stack((x.sin(), x.cos()), -1) * self.scale

    def forward(self, inputs):
        x, mask = unmask(inputs)
        if x.dim() != 2:
            raise ValueError(f"expected a shape of (b, n), got {tuple(x.shape)}")
        mask = element_mask(mask, x.shape)
        return Tokens(self.values(x if mask is None else x.masked_fill(~mask, 0), mask), mask)


class NotTokens(Angles):
    def forward(self, inputs):
        return super().forward(inputs).values


class WrongWidth(Angles):
    token_dim = 3


class MutatesInput(Angles):
    def forward(self, inputs):
        unmask(inputs)[0].mul_(2)
        return super().forward(inputs)


class RandomInEvaluation(Angles):
    def values(self, x, mask):
        return super().values(x, mask) + torch.rand(())


class MixesPatients(Angles):
    def values(self, x, mask):
        return super().values(x - x.mean(), mask)


class NeedsTwoPatients(Angles):
    def values(self, x, mask):
        return super().values(x + 0 * x[1].sum(), mask)


class IgnoresMask(Angles):
    def forward(self, inputs):
        return super().forward(unmask(inputs)[0].nan_to_num(0))


class InvertsMask(Angles):
    def forward(self, inputs):
        tokens = super().forward(inputs)
        return Tokens(tokens.values, None if tokens.mask is None else ~tokens.mask)


class NoMasked(Angles):
    def forward(self, inputs):
        if inputs.dim() != 2:
            raise ValueError("expected a shape of (b, n)")
        return Tokens(self.values(inputs, None))


class MeanOverMasked(Angles):
    """Subtracts a mean that missing values are part of: the leak that a plain example does not show."""

    def forward(self, inputs):
        x, mask = unmask(inputs)
        if x.dim() != 2:
            raise ValueError("expected a shape of (b, n)")
        mask = element_mask(mask, x.shape)
        real = x if mask is None else x.masked_fill(~mask.any(1, keepdim=True), 0)
        return Tokens(self.values(real - real.mean(1, keepdim=True), mask), mask)


class NaNLeaks(Angles):
    """Multiplies by the mask instead of filling: 0 * NaN is NaN."""

    def forward(self, inputs):
        x, mask = unmask(inputs)
        if x.dim() != 2:
            raise ValueError("expected a shape of (b, n)")
        mask = element_mask(mask, x.shape)
        present = None if mask is None else mask.any(1, keepdim=True)
        x = x if mask is None else x.masked_fill(~present, 0) * mask
        total = x.sum(1, keepdim=True)
        return Tokens(self.values(x + total, mask), mask)


class GradientLeaks(Angles):
    """The number is right, the gradient of missing values is not."""

    def forward(self, inputs):
        x, _ = unmask(inputs)
        tokens = super().forward(inputs)
        total = x.nan_to_num(0).sum(1)[:, None, None]
        return Tokens(tokens.values + total - total.detach(), tokens.mask)


class DividesByNothing(Angles):
    """The gradient of its weight is NaN where a patient has nothing."""

    def values(self, x, mask):
        total = x.square().sum(1, keepdim=True) if mask is None else (x.square() * mask).sum(1, keepdim=True)
        length = total.sqrt()
        return super().values(torch.where(length > 0, x * self.scale[0] / length, x), mask)


class AcceptsAnything(Angles):
    def forward(self, inputs):
        x, mask = unmask(inputs)
        mask = None if mask is None else element_mask(mask, x.shape[:2])
        x = x.flatten(1) if mask is None else x.flatten(1).masked_fill(~mask, 0)
        return Tokens(self.values(x, mask), mask)


class CrashesOnWrongShapes(Angles):
    def forward(self, inputs):
        x, mask = unmask(inputs)
        mask = element_mask(mask, x.shape[:2])
        x = x if mask is None else x.masked_fill(~mask, 0)
        return Tokens((x @ torch.eye(x.shape[1], dtype=x.dtype)).unsqueeze(-1) * self.scale, mask)


def test_the_encoder_that_they_change_passes():
    check_encoder(Angles(), normal(3, 4))
    check_encoder(Angles(), Masked(normal(3, 4), normal(3, 4) < 0.7))
    check_encoder(Angles(), normal(3, 4), wrong=[torch.zeros(3), torch.zeros(3, 4, 1)])


DIFFERENCE = "the largest difference is "
FILL = (
    "; likely cause: a sum, mean or layer reads masked elements; fill them with values.masked_fill(~mask, 0)"
)
BROKEN = [
    (
        NotTokens,
        "it returns Tokens of its token_dim: expected Tokens, got Tensor; likely cause: return Tokens(",
    ),
    (
        WrongWidth,
        "it returns Tokens of its token_dim: expected a shape of (3, n, 3), got (3, 4, 2); likely cause: token_dim is not "
        "the width of what forward() returns",
    ),
    (MutatesInput, "the input is not mutated: the tensor changed; likely cause: an in-place operation"),
    (RandomInEvaluation, f"a second call gives the same: {DIFFERENCE}"),
    (MixesPatients, f"patients do not mix, patient 0 alone gives what the batch gives: {DIFFERENCE}"),
    (NeedsTwoPatients, "patients do not mix, patient 0 alone gives what the batch gives: got IndexError: "),
    (
        IgnoresMask,
        "a patient who is all masked has no real token: forward() returned Tokens without a mask; likely cause: forward() "
        "does not pass element_mask(mask, ...) to Tokens",
    ),
    (
        InvertsMask,
        "a patient who is all masked has no real token: patient 0 of 3 has 4 of 4 real tokens; likely cause: the mask is "
        "inverted: True means real",
    ),
    (
        NoMasked,
        "a patient who is all masked has no real token: got AttributeError: 'Masked' object has no attribute 'dim'; likely "
        "cause: forward() does not take Masked(values, mask); see healnet.inputs.unmask",
    ),
    (MeanOverMasked, f"what is masked changes nothing, when it is moved to other numbers: {DIFFERENCE}"),
    (NaNLeaks, f"what is masked changes nothing, when it is turned into NaN: {DIFFERENCE}nan{FILL}"),
    (
        GradientLeaks,
        "gradients are finite, and exactly zero for what is masked: masked values gets a gradient of ",
    ),
    (
        DividesByNothing,
        "gradients are finite, and exactly zero for what is masked: the gradient of scale is not finite",
    ),
    (
        AcceptsAnything,
        "a wrong shape is refused with a ValueError: [(3, 4, 2)] was accepted; likely cause: forward()",
    ),
    (CrashesOnWrongShapes, "a wrong shape is refused with a ValueError: [(3, 4, 2)] gave RuntimeError: "),
]


@pytest.mark.parametrize(("encoder", "message"), BROKEN, ids=lambda x: getattr(x, "__name__", ""))
def test_each_broken_encoder_is_caught_by_its_law(encoder, message):
    with pytest.raises(LawBrokenError) as error:
        check_encoder(encoder(), normal(3, 4), modality="angles")
    assert str(error.value).startswith(f"modality 'angles' ({encoder.__name__}): {message}")


class BagEncoder(ModalityEncoder):
    token_dim = 3

    def features(self, bag):
        return bag.features.masked_fill(~bag.mask[..., None], 0)

    def forward(self, bag):
        if bag.features.dim() != 3:
            raise ValueError("expected features of shape (b, n, c)")
        return Tokens(self.features(bag), bag.mask)


class MeanOverPadding(BagEncoder):
    """Masked features are zero, and counted all the same."""

    def features(self, bag):
        features = super().features(bag)
        return features - features.mean(1, keepdim=True)


def test_a_mean_over_padding_is_caught_without_padding_in_the_example():
    bag = PatchBag(normal(3, 4, 3), normal(3, 4, 2), torch.ones(3, 4, dtype=torch.bool))
    check_encoder(BagEncoder(), bag)
    message = f"encoder MeanOverPadding: padding changes nothing: {DIFFERENCE}"
    with pytest.raises(
        LawBrokenError, match=f"^{re.escape(message)}.*; likely cause: a length, mean or position"
    ):
        check_encoder(MeanOverPadding(), bag)


class PooledTransformer(ModalityEncoder):
    """A transformer over the elements that are there."""

    token_dim = 8

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(3, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, inputs):
        x, mask = unmask(inputs)
        if x.dim() != 3 or x.shape[2] != 3:
            raise ValueError(f"expected a shape of (b, n, 3), got {tuple(x.shape)}")
        mask = element_mask(mask, x.shape[:2])
        if mask is None:
            return Tokens(self.encoder(self.embed(x)))
        attended = mask | ~mask.any(
            1, keepdim=True
        )  # of a patient without elements all, lest the softmax be NaN
        x = x.masked_fill(~mask.unsqueeze(-1), 0)
        return Tokens(self.encoder(self.embed(x), src_key_padding_mask=~attended), mask)


class UNetBlock(nn.Module):
    """As in MONAI: instance-normalized convolutions with a residual, channels first."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv3d(1, 6, 2, stride=2)
        self.conv = nn.Sequential(
            nn.InstanceNorm3d(6, affine=True), nn.PReLU(), nn.Conv3d(6, 6, 3, padding=1)
        )

    def forward(self, x):
        x = self.down(x)
        return (x + self.conv(x)).flatten(2).transpose(1, 2)


def cnn():
    return nn.Sequential(
        nn.Conv2d(3, 5, 2, stride=2), nn.GELU(), nn.BatchNorm2d(5), nn.Conv2d(5, 5, 3, padding=1)
    )


def bag():
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2, [True] * 2 + [False] * 4])
    return PatchBag(normal(3, 6, 4), 1000 * normal(3, 6, 2), mask)


def graph():
    ring = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]])
    path = torch.tensor([[0, 1], [1, 2]])
    return Graph.stack([Graph.of(normal(4, 2), ring), Graph.of(normal(3, 2), path)])


CORRECT = {
    "einops": lambda: (
        LearnedEncoder(
            nn.Sequential(Rearrange("b (h p) (w q) c -> b (h w) (p q c)", p=2, q=2), nn.Linear(12, 5)), 5
        ),
        normal(2, 4, 6, 3),
    ),
    "convolution and einops": lambda: (
        LearnedEncoder(nn.Sequential(cnn(), Rearrange("b c h w -> b (h w) c")), 5),
        normal(2, 3, 4, 6),
    ),
    "transformer": lambda: (PooledTransformer(), normal(3, 5, 3)),
    "a transformer without masks of elements": lambda: (
        LearnedEncoder(PooledTransformer().encoder, 8),
        normal(3, 5, 8),
    ),
    "MONAI-like": lambda: (LearnedEncoder(UNetBlock(), 6), normal(2, 1, 4, 4, 6)),
    "flattened": lambda: (
        LearnedEncoder(nn.Sequential(nn.Flatten(), nn.Linear(12, 10), nn.Unflatten(1, (2, 5))), 5),
        normal(2, 3, 4),
    ),
    "table, a token per feature": lambda: (OmicEncoder(7, token_dim=3), normal(3, 7)),
    "table, one token": lambda: (OmicEncoder(7, tokens="vector"), normal(3, 7)),
    "table, projected": lambda: (OmicEncoder(7, tokens=4, token_dim=3), normal(3, 7)),
    "grid": lambda: (GridEncoder(2, 2), normal(2, 4, 3, 2)),
    "grid of blocks, channels first": lambda: (
        GridEncoder(2, 2, patch=2, channels_first=True),
        normal(2, 2, 5, 4),
    ),
    "patches": lambda: (PatchEncoder(4), bag()),
    "patches without places": lambda: (PatchEncoder(4, positions=False), normal(3, 6, 4)),
    "time series": lambda: (
        SequenceEncoder(2),
        TimeSeries(normal(3, 5, 2), normal(3, 5).abs().cumsum(1), normal(3, 5, 2) > -1),
    ),
    "evenly spaced series": lambda: (SequenceEncoder(2), normal(3, 5, 2)),
    "graph": lambda: (GraphEncoder(2, walk_length=3, eigenvectors=1), graph()),
}


@pytest.mark.parametrize("name", CORRECT)
def test_no_correct_encoder_is_blamed(name):
    torch.manual_seed(0)
    encoder, inputs = CORRECT[name]()
    check_encoder(encoder, inputs)


def test_the_checked_module_stays_as_it_was():
    encoder = Angles().train()
    check_encoder(encoder, normal(3, 4))
    assert encoder.training
    assert encoder.scale.dtype == torch.float32
    assert encoder.scale.grad is None


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.zeros(1, 4), "expected an example batch of at least two patients, got batch sizes [1]"),
        (torch.full((2, 4), torch.nan), "expected finite example inputs, got NaN or infinity in the tensor"),
    ],
)
def test_examples_that_cannot_serve_are_refused(inputs, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_encoder(Angles(), inputs)
