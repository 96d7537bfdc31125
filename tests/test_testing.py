"""The kit is tested on modules that break each law, one law each."""

import re

import pytest
import torch
from torch import nn

from healnet import HEALNet, Masked, PatchBag, Tokens
from healnet.encoders import ModalityEncoder, OmicEncoder
from healnet.fusion import FusionLayer
from healnet.inputs import element_mask, unmask
from healnet.testing import (
    LawBrokenError,
    check_encoder,
    check_fusion_layer,
    check_model,
)

DIMS = {"rna": 3, "slide": 7}
D = 5


class GoodLayer(FusionLayer):
    """Adds a projection of the mean of each modality's real tokens to every latent."""

    def __init__(self):
        super().__init__()
        self.project = nn.ModuleDict({name: nn.Linear(c, D, bias=False) for name, c in DIMS.items()})

    def mean(self, x):
        mask = torch.ones(x.values.shape[:2], dtype=torch.bool) if x.mask is None else x.mask
        values = x.values.masked_fill(~mask[..., None], 0)
        return values.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)

    def forward(self, latents, tokens, recorder=None):
        for name, x in tokens.items():
            latents = latents + self.project[name](self.mean(x))[:, None]
        return latents


class ChangesShape(GoodLayer):
    def forward(self, latents, tokens, recorder=None):
        return super().forward(latents, tokens)[:, 1:]


class MutatesLatents(GoodLayer):
    def forward(self, latents, tokens, recorder=None):
        return latents.mul_(1.5)


class MutatesTokens(GoodLayer):
    def forward(self, latents, tokens, recorder=None):
        for x in tokens.values():
            x.values.mul_(2)
        return super().forward(latents, tokens)


class RemembersCalls(GoodLayer):
    calls = 0

    def forward(self, latents, tokens, recorder=None):
        self.calls += 1
        return super().forward(latents, tokens) + self.calls


class MovesWhenTraced(GoodLayer):
    def forward(self, latents, tokens, recorder=None):
        return super().forward(latents, tokens) + (recorder is not None)


class CountsTheAbsent(GoodLayer):
    def forward(self, latents, tokens, recorder=None):
        return super().forward(latents, tokens) + len(tokens)


class MixesPatients(GoodLayer):
    def forward(self, latents, tokens, recorder=None):
        fused = super().forward(latents, tokens) - latents
        return latents + fused - fused.mean(0) * (fused != 0)


class CountsPadding(GoodLayer):
    def mean(self, x):
        return super().mean(x) * (0 if x.mask is None else x.mask.sum(1, keepdim=True)) / x.values.shape[1]


class NeedsOrder(GoodLayer):
    def mean(self, x):
        return x.values[:, 0] if x.mask is None else x.values[:, 0].masked_fill(~x.mask[:, :1], 0)


class LeaksMasked(GoodLayer):
    def mean(self, x):
        return super().mean(x) + 0 * x.values.sum(1)


class LeaksGradient(GoodLayer):
    """The number is right, the gradient is not."""

    def mean(self, x):
        values = x.values.nan_to_num(0).sum(1)
        return super().mean(x) + values - values.detach()


class DividesByNothing(GoodLayer):
    """Gradients of the absent are NaN behind a mask."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def mean(self, x):
        mean = super().mean(x)
        return torch.where(
            (mean == 0).all(1, keepdim=True), mean, self.scale * mean / mean.norm(dim=1, keepdim=True)
        )


def test_a_good_layer_passes():
    check_fusion_layer(GoodLayer(), D, DIMS)


@pytest.mark.parametrize(
    ("layer", "law"),
    [
        (ChangesShape, "a fusion layer keeps the latents' shape (4, 5, 5), got (4, 4, 5)"),
        (MutatesLatents, "latents are not mutated: the largest difference is "),
        (MutatesTokens, "tokens of 'rna' are not mutated: the largest difference is "),
        (RemembersCalls, "a second call gives the same: the largest difference is 1"),
        (MovesWhenTraced, "recording a trace changes no number: the largest difference is 1"),
        (
            CountsTheAbsent,
            "nothing present at all: as without tokens, and finite: the largest difference is 2",
        ),
        (
            MixesPatients,
            "patients do not mix and padding changes nothing: patient 0 alone, absent modalities left out: ",
        ),
        (
            CountsPadding,
            "patients do not mix and padding changes nothing: patient 0 alone, absent modalities left out: ",
        ),
        (NeedsOrder, "the order of tokens changes nothing: the largest difference is "),
        (LeaksMasked, "masked tokens do not leak, not even NaN: the largest difference is nan"),
        (LeaksGradient, "masked tokens of 'rna' get a gradient of exactly zero"),
        (DividesByNothing, "gradients are finite under every pattern of absence"),
    ],
)
def test_each_broken_layer_is_caught(layer, law):
    torch.manual_seed(0)
    with pytest.raises(LawBrokenError) as error:
        check_fusion_layer(layer(), D, DIMS)
    assert str(error.value).startswith(law)


def test_extra_padding_is_caught_where_rows_alone_are_right():
    class CountsLongPadding(GoodLayer):
        def mean(self, x):
            return super().mean(x) + (x.values.shape[1] > 7)

    with pytest.raises(LawBrokenError, match=r"^nothing present|^extra padding changes nothing: "):
        check_fusion_layer(CountsLongPadding(), D, DIMS)


class GoodEncoder(ModalityEncoder):
    token_dim = 2

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))

    def values(self, x):
        return torch.stack((x.sin(), x.cos()), -1) * self.scale

    def forward(self, inputs):
        x, mask = unmask(inputs)
        if x.dim() != 2:
            raise ValueError(f"expected a shape of (b, n), got {tuple(x.shape)}")
        mask = element_mask(mask, x.shape)
        return Tokens(self.values(x if mask is None else x.masked_fill(~mask, 0)), mask)


class NotTokens(GoodEncoder):
    def forward(self, inputs):
        return super().forward(inputs).values


class WrongWidth(GoodEncoder):
    token_dim = 3


class MutatesInput(GoodEncoder):
    def forward(self, inputs):
        unmask(inputs)[0].mul_(2)
        return super().forward(inputs)


class Random(GoodEncoder):
    def values(self, x):
        return super().values(x) + torch.rand(())


class BatchStatistics(GoodEncoder):
    def values(self, x):
        return super().values(x - x.mean())


class IgnoresAbsence(GoodEncoder):
    def forward(self, inputs):
        return super().forward(unmask(inputs)[0].nan_to_num(0))


class LeaksHidden(GoodEncoder):
    def forward(self, inputs):
        x, mask = unmask(inputs)
        tokens = super().forward(inputs)
        return Tokens(tokens.values + (0 if mask is None else 0 * x.sum()), tokens.mask)


class LeaksHiddenGradient(GoodEncoder):
    def forward(self, inputs):
        x, _ = unmask(inputs)
        tokens = super().forward(inputs)
        total = x.nan_to_num(0).sum()
        return Tokens(tokens.values + total - total.detach(), tokens.mask)


class AcceptsAnything(GoodEncoder):
    def forward(self, inputs):
        x, mask = unmask(inputs)
        mask = None if mask is None else element_mask(mask, x.shape[:2])
        x = x.flatten(1) if mask is None else x.flatten(1).masked_fill(~mask, 0)
        return Tokens(self.values(x), mask)


class CrashesOnWrongShapes(GoodEncoder):
    def forward(self, inputs):
        x, mask = unmask(inputs)
        mask = element_mask(mask, x.shape[:2])
        x = x if mask is None else x.masked_fill(~mask, 0)
        return Tokens((x @ torch.eye(x.shape[1], dtype=x.dtype)).unsqueeze(-1) * self.scale, mask)


@pytest.fixture
def example():
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


def test_a_good_encoder_passes(example):
    check_encoder(GoodEncoder(), example)
    check_encoder(GoodEncoder(), Masked(example, torch.rand(3, 4) < 0.7))
    check_encoder(GoodEncoder(), example, wrong=[torch.zeros(3), torch.zeros(3, 4, 1)])


@pytest.mark.parametrize(
    ("encoder", "law"),
    [
        (NotTokens, "an encoder returns Tokens, got Tensor"),
        (WrongWidth, "an encoder returns tokens of shape (3, n, 3), its token_dim last; got (3, 4, 2)"),
        (MutatesInput, "the input is not mutated: the tensor changed"),
        (Random, "a second call gives the same: the largest difference is "),
        (
            BatchStatistics,
            "patients do not mix: patient 0 alone gives what the batch gives: the largest difference is ",
        ),
        (IgnoresAbsence, "a patient whose input is all masked has no real token"),
        (LeaksHidden, "hiding a patient changes nothing for the others: the largest difference is nan"),
        (LeaksHiddenGradient, "gradients are finite, and exactly zero for what was masked"),
        (AcceptsAnything, "a wrong shape [(3, 4, 1)] is refused with a ValueError, but was accepted"),
        (CrashesOnWrongShapes, "a wrong shape [(3, 4, 1)] is refused with a ValueError, got RuntimeError: "),
    ],
)
def test_each_broken_encoder_is_caught(encoder, law, example):
    with pytest.raises(LawBrokenError) as error:
        check_encoder(encoder(), example)
    assert str(error.value).startswith(law)


class LeaksMaskedElements(GoodEncoder):
    """Every token knows the sum of the row, missing features included."""

    def forward(self, inputs):
        x, _ = unmask(inputs)
        tokens = super().forward(inputs)
        return Tokens(tokens.values + x.sum(1)[:, None, None], tokens.mask)


class LeaksMaskedGradient(GoodEncoder):
    """The number is right, the gradient of missing features is not."""

    def forward(self, inputs):
        x, mask = unmask(inputs)
        tokens = super().forward(inputs)
        x = x.nan_to_num(0)
        if mask is not None:
            x = x.masked_fill(~mask.reshape(len(mask), -1).any(1)[:, None], 0)
        total = x.sum(1)[:, None, None]
        return Tokens(tokens.values + total - total.detach(), tokens.mask)


@pytest.mark.parametrize(
    ("encoder", "law"),
    [
        (LeaksMaskedElements, "what is masked changes nothing, not even NaN: the largest difference is nan"),
        (LeaksMaskedGradient, "gradients are finite, and exactly zero for what was masked"),
    ],
)
def test_a_leak_of_missing_features_is_caught(encoder, law, example):
    mask = torch.tensor([[True] * 4, [True, True, False, True], [False, True, True, True]])
    with pytest.raises(LawBrokenError, match=f"^{law}$"):
        check_encoder(encoder(), Masked(example, mask))


class BagEncoder(ModalityEncoder):
    token_dim = 3

    def __init__(self, relative=False):
        super().__init__()
        self.relative = relative

    def forward(self, bag):
        if bag.features.dim() != 3:
            raise ValueError("expected (b, n, c)")
        features = bag.features.masked_fill(~bag.mask[..., None], 0)
        return Tokens(features / (features.shape[1] if self.relative else 1), bag.mask)


def test_padding_of_bags_is_checked():
    mask = torch.tensor([[True, True], [True, False]])
    bag = PatchBag(torch.randn(2, 2, 3), torch.rand(2, 2, 2), mask)
    check_encoder(BagEncoder(), bag)
    with pytest.raises(LawBrokenError, match=r"^padding changes nothing: the largest difference is "):
        check_encoder(BagEncoder(relative=True), bag)


def test_the_checked_module_stays_as_it_was(example):
    encoder = GoodEncoder().train()
    check_encoder(encoder, example)
    assert encoder.training
    assert encoder.scale.dtype == torch.float32
    assert encoder.scale.grad is None


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.zeros(1, 4), "expected an example batch of at least two patients, got batch sizes [1]"),
        (
            torch.full((2, 4), torch.nan),
            "expected finite example inputs, got NaN or infinity in 'the tensor'",
        ),
    ],
)
def test_examples_that_cannot_serve_are_refused(inputs, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_encoder(GoodEncoder(), inputs)


class BrokenLayer(FusionLayer):
    """Mixes patients through the batch mean."""

    def forward(self, latents, tokens, recorder=None):
        return latents + sum(x.values.mean() for x in tokens.values())


def test_a_broken_model_is_caught():
    model = HEALNet({"rna": OmicEncoder(4)}, layers=[BrokenLayer()], latent_dim=6, head=nn.Identity())
    with pytest.raises(LawBrokenError, match=r"alone gives what the batch gives: "):
        check_model(model, {"rna": torch.randn(3, 4)})


class InfiniteHead(nn.Module):
    def forward(self, latents):
        return latents.mean((1, 2)) / 0


def test_a_model_that_is_not_finite_is_caught():
    model = HEALNet({"rna": OmicEncoder(4)}, head=InfiniteHead())
    with pytest.raises(LawBrokenError, match=r"^the output is finite under every pattern of absence$"):
        check_model(model, {"rna": torch.randn(3, 4)})
