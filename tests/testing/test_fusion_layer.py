"""The kit is tested on modules that break each law, one law each."""

import pytest
import torch
from torch import nn

from healnet.fusion import FusionLayer, HybridFusionLayer
from healnet.testing import LawBrokenError, check_fusion_layer

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


class Crashes(GoodLayer):
    def mean(self, x):
        return {}["slide"] if x.values.shape[2] == 7 and len(x.values) == 1 else super().mean(x)


class ReturnsATuple(GoodLayer):
    def forward(self, latents, tokens, recorder=None):
        return super().forward(latents, tokens), None


def test_a_good_layer_passes():
    check_fusion_layer(GoodLayer(), D, DIMS)
    check_fusion_layer(HybridFusionLayer(D, DIMS), D, DIMS)


ALONE = "patients do not mix, and an absent modality changes nothing: patient 0, who has ['rna', 'slide'] and lacks [], "


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (ChangesShape, "it returns latents of the shape it was given: expected (4, 5, 5), got (4, 4, 5)"),
        (ReturnsATuple, "it returns latents of the shape it was given: expected (4, 5, 5), got tuple"),
        (
            MutatesLatents,
            "latents and tokens are not mutated: latents: the tensor changed; likely cause: an in-place",
        ),
        (
            MutatesTokens,
            "latents and tokens are not mutated: modality 'rna': the tensor changed; likely cause: an",
        ),
        (
            RemembersCalls,
            "a second call gives the same: the largest difference is 1; likely cause: dropout or noise",
        ),
        (
            MovesWhenTraced,
            "recording a trace changes no number: the largest difference is 1; likely cause: a branch",
        ),
        (
            CountsTheAbsent,
            "a patient who has nothing is left as without tokens, and finite: the largest difference is 2; likely cause: "
            "the update of a modality is added also where tokens.present is False",
        ),
        (MixesPatients, ALONE + "alone gives what the batch gives: the largest difference is "),
        (
            CountsPadding,
            "patients do not mix, and an absent modality changes nothing: patient 0, who has ['rna', 'slide'] and lacks "
            "[], alone gives what the batch gives: the largest difference is ",
        ),
        (NeedsOrder, "modality 'rna': the order of tokens changes nothing: the largest difference is "),
        (
            LeaksMasked,
            "modality 'rna': masked tokens change nothing, not even NaN: the largest difference is nan; likely cause: the "
            "layer reads tokens.values without tokens.mask; ",
        ),
        (
            LeaksGradient,
            "modality 'rna': gradients are finite, and exactly zero for masked tokens: masked tokens get a gradient of ",
        ),
        (
            DividesByNothing,
            "gradients are finite, and exactly zero for masked tokens: the gradient of scale is not finite",
        ),
        (
            Crashes,
            "patients do not mix, and an absent modality changes nothing: patient 0, who has ['rna', 'slide'] and lacks "
            "[], alone gives what the batch gives: got KeyError: 'slide'",
        ),
    ],
)
def test_each_broken_layer_is_caught(layer, message):
    torch.manual_seed(0)
    with pytest.raises(LawBrokenError) as error:
        check_fusion_layer(layer(), D, DIMS)
    assert str(error.value).startswith(f"fusion layer {layer.__name__}: {message}")


def _present(x):
    return 0 if x.mask is None else x.present[:, None]


def test_extra_padding_is_caught_where_rows_alone_are_right():
    class CountsLongPadding(GoodLayer):
        def mean(self, x):
            return super().mean(x) + (x.values.shape[1] > 7) * _present(x)

    message = r"^fusion layer CountsLongPadding: modality 'rna': extra padding changes nothing: the largest difference is 1"
    with pytest.raises(LawBrokenError, match=message):
        check_fusion_layer(CountsLongPadding(), D, DIMS)


def test_the_checked_layer_stays_as_it_was():
    layer = GoodLayer().train()
    check_fusion_layer(layer, D, DIMS)
    assert layer.training
    assert layer.project["rna"].weight.dtype == torch.float32
