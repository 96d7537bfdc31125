"""Fourier features: the frequencies, the order, the width."""

import math

import pytest
import torch

from healnet.nn.fourier import fourier_features, fourier_width


def test_values_by_hand():
    # Two axes, three bands: frequencies linspace(1, 10 / 2, 3) = 1, 3, 5; sines, cosines, the coordinate, axis by axis.
    x, y = 0.3, -0.7
    features = fourier_features(torch.tensor([[x, y]], dtype=torch.float64), num_bands=3, max_freq=10.0)
    expected = []
    for place in (x, y):
        expected += [math.sin(math.pi * f * place) for f in (1, 3, 5)]
        expected += [math.cos(math.pi * f * place) for f in (1, 3, 5)]
        expected += [place]
    torch.testing.assert_close(features, torch.tensor([expected], dtype=torch.float64), rtol=0, atol=1e-14)


@pytest.mark.parametrize(("axes", "bands"), [(1, 0), (2, 1), (3, 5)])
def test_width_is_what_is_made(axes, bands):
    made = fourier_features(torch.zeros(7, 11, axes), bands, 8.0)
    assert made.shape == (7, 11, fourier_width(axes, bands))


def test_one_band_is_at_the_lowest_frequency_and_none_leaves_the_coordinate():
    place = torch.tensor([[0.25]], dtype=torch.float64)
    assert fourier_features(place, 0, 10.0).tolist() == [[0.25]]
    torch.testing.assert_close(
        fourier_features(place, 1, 10.0)[0, :2],
        torch.tensor([math.sin(math.pi / 4), math.cos(math.pi / 4)], dtype=torch.float64),
    )


def test_precision_follows_the_positions():
    assert fourier_features(torch.zeros(1, 1, dtype=torch.float64), 2, 4.0).dtype == torch.float64
    assert fourier_features(torch.zeros(1, 1), 2, 4.0).dtype == torch.float32


def test_a_negative_number_of_bands_is_refused():
    with pytest.raises(ValueError, match=r"^expected num_bands to be at least 0, got -1$"):
        fourier_width(2, -1)
