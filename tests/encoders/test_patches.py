"""Bags of patches: features untouched, places from coordinates."""

import pytest
import torch

from healnet.encoders import PatchEncoder
from healnet.inputs import Masked, PatchBag
from healnet.nn.fourier import fourier_features
from healnet.testing import check_encoder


def bag(b=3, n=7, c=5, columns=2, lengths=(7, 4, 1)):
    generator = torch.Generator().manual_seed(0)
    coords = torch.randint(0, 50_000, (b, n, columns), generator=generator)
    if columns == 3:
        coords[..., 2] %= 2
    mask = torch.arange(n) < torch.tensor(lengths)[:, None]
    return PatchBag(torch.randn(b, n, c, generator=generator, dtype=torch.float64), coords, mask)


def test_places_by_hand():
    coords = torch.tensor([[[1000, 500], [3000, 500], [2000, 1500]]])
    features = torch.randn(1, 3, 5, dtype=torch.float64)
    tokens = PatchEncoder(5, num_bands=2, max_freq=6.0)(PatchBag(features, coords, torch.ones(1, 3).bool()))
    places = torch.tensor([[-1.0, -0.5], [1.0, -0.5], [0.0, 0.5]], dtype=torch.float64)
    expected = torch.cat((features[0], fourier_features(places, 2, 6.0)), dim=-1)
    torch.testing.assert_close(tokens.values[0], expected, rtol=0, atol=1e-12)


def test_fixed_scale_by_hand():
    coords = torch.tensor([[[0, 20_000], [10_000, 5_000]]])
    inputs = PatchBag(torch.zeros(1, 2, 5), coords, torch.ones(1, 2).bool())
    tokens = PatchEncoder(5, num_bands=0, scale=20_000.0)(inputs)
    assert tokens.values[0, :, 5:].tolist() == [[-1.0, 1.0], [0.0, -0.5]]


def test_slides_have_boxes_of_their_own_and_a_place_each():
    coords = torch.tensor([[[0, 0, 0], [100, 0, 0], [7000, 40, 2], [7000, 240, 2]]])
    inputs = PatchBag(torch.zeros(1, 4, 1, dtype=torch.float64), coords, torch.ones(1, 4).bool())
    tokens = PatchEncoder(1, num_bands=0, slide_position=True)(inputs).values[0, :, 1:]
    expected = [[-1, 0, -1], [1, 0, -1], [0, -1, 1 / 3], [0, 1, 1 / 3]]
    torch.testing.assert_close(tokens, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-15)


def test_order_carries_tokens_along():
    inputs = bag(b=1, lengths=(7,))
    order = torch.randperm(7)
    encoder = PatchEncoder(5)
    shuffled = encoder(PatchBag(*(field[:, order] for field in inputs)))
    torch.testing.assert_close(shuffled.values, encoder(inputs).values[:, order], rtol=0, atol=0)


def test_a_batch_of_nobody():
    nobody = PatchBag(*(field[:0] for field in bag(columns=3)))
    assert PatchEncoder(5)(nobody).values.shape == (0, 7, 23)


def test_padding_of_any_kind_makes_finite_tokens():
    inputs = bag(columns=3)
    hidden = ~inputs.mask.unsqueeze(-1)
    for filler in (-1, float("nan")):
        coords = inputs.coords.double().masked_fill(hidden, filler)
        assert PatchEncoder(5, slide_position=True)(inputs._replace(coords=coords)).values.isfinite().all()


def test_half_precision_stays_and_its_places_are_exact_to_it():
    inputs = bag()
    half = PatchEncoder(5)(PatchBag(inputs.features.half(), inputs.coords, inputs.mask))
    assert half.values.dtype == torch.float16
    full = PatchEncoder(5)(inputs)
    torch.testing.assert_close(
        half.values[inputs.mask][:, 5:].double(), full.values[inputs.mask][:, 5:], rtol=0, atol=5e-4
    )


def test_without_positions_features_are_the_tokens_themselves():
    inputs = bag()
    encoder = PatchEncoder(5, positions=False)
    assert encoder.token_dim == 5
    for given in (inputs, Masked(inputs.features, inputs.mask)):
        tokens = encoder(given)
        assert tokens.values is inputs.features  # not even a copy
        assert torch.equal(tokens.mask, inputs.mask)
    assert encoder(inputs.features).mask is None


@pytest.mark.parametrize(
    ("options", "columns"),
    [({}, 2), ({}, 3), ({"scale": 1000.0}, 3), ({"slide_position": True}, 3), ({"positions": False}, 2)],
)
def test_laws(options, columns):
    check_encoder(PatchEncoder(5, **options), bag(columns=columns))


def test_wrong_input_is_refused():
    good = bag()
    with pytest.raises(ValueError, match=r"^expected features of shape \(b, n, 5\), got \(3, 7, 4\)$"):
        PatchEncoder(5)(good._replace(features=good.features[..., :4]))
    with pytest.raises(
        ValueError, match=r"^expected coords of shape \(3, 7, 2\) or \(3, 7, 3\), got \(3, 6, 2\)$"
    ):
        PatchEncoder(5)(good._replace(coords=good.coords[:, :6]))
    with pytest.raises(ValueError, match=r"^expected coords of shape \(3, 7, 3\), got \(3, 7, 2\)$"):
        PatchEncoder(5, slide_position=True)(good)
    with pytest.raises(
        ValueError,
        match=r"^expected PatchBag\(features, coords, mask\), got Tensor; "
        r"for bags without coordinates make the encoder with positions=False$",
    ):
        PatchEncoder(5)(good.features)
    with pytest.raises(ValueError, match=r"^expected a positive scale or None, got -1$"):
        PatchEncoder(5, scale=-1)
    with pytest.raises(
        ValueError, match=r"^expected positions=True with slide_position=True: a slide's index is a position$"
    ):
        PatchEncoder(5, positions=False, slide_position=True)
