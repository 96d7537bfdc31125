"""Any callable encodes tiles, in its own precision, and is left as it was."""

import numpy as np
import pytest
import torch
from torch import nn

from healnet.slides.tile_encoder import TileEncoder, device_of

CPU = torch.device("cpu")


def encoder(function, autocast=None):
    return TileEncoder(function, CPU, autocast)


def test_bytes_become_fractions_and_floats_stay():
    encode = encoder(lambda tiles: tiles.mean((2, 3)))
    assert encode(torch.full((2, 3, 4, 4), 51, dtype=torch.uint8)).tolist() == [[pytest.approx(0.2)] * 3] * 2
    assert encode(torch.full((2, 3, 4, 4), 51.0)).tolist() == [[51.0] * 3] * 2


def test_features_that_are_a_view_of_the_tiles_outlive_the_next_batch():
    encode = encoder(lambda tiles: tiles.flatten(1)[:, :4])
    first = encode(torch.arange(24, dtype=torch.uint8).reshape(2, 3, 2, 2))
    encode(torch.zeros(2, 3, 2, 2, dtype=torch.uint8))
    np.testing.assert_allclose(first, np.array([[0, 1, 2, 3], [12, 13, 14, 15]]) / 255, rtol=1e-6)


def test_batches_of_other_sizes_and_with_colors_last_in_memory():
    encode = encoder(lambda tiles: tiles.view(len(tiles), -1))
    draw = torch.Generator().manual_seed(0)
    for shape in ((4, 2, 2, 3), (5, 2, 2, 3), (1, 2, 2, 3), (3, 5, 5, 3)):
        tiles = torch.randint(256, shape, dtype=torch.uint8, generator=draw).permute(0, 3, 1, 2)
        assert np.array_equal(encode(tiles), (tiles.float() / 255).flatten(1))


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [
        (torch.float16, "float16"),
        (torch.bfloat16, "float32"),
        (torch.float32, "float32"),
        (torch.float64, "float64"),
    ],
)
def test_the_type_is_the_encoders(dtype, stored):
    kind = encoder(lambda tiles: tiles.mean((2, 3)).to(dtype)).probe(8, None)
    assert (kind.dim, kind.dtype) == (3, np.dtype(stored))


def test_the_probe_goes_through_the_transform_alone_and_beside_another_tile():
    seen = []
    kind = encoder(lambda tiles: seen.append(tiles) or tiles.flatten(1)).probe(
        2, lambda tile: tile[:1].float() - 5
    )
    # The red channel of the pattern is 5x + y; the second tile is the first one turned by half, and darker.
    assert seen[0].tolist() == [[[[-5.0, 0.0], [-4.0, 1.0]]]]
    assert seen[1].flatten(1).tolist() == [[-5.0, 0.0, -4.0, 1.0], [-3.0, -5.0, -4.0, -5.0]]
    assert kind.probe.tolist() == [-5.0, 0.0, -4.0, 1.0, -3.0, -5.0, -4.0, -5.0]


@pytest.mark.parametrize(
    "function",
    [
        lambda tiles: nn.functional.dropout(tiles[:, :, ::4, ::4].flatten(1), 0.5),
        lambda tiles: nn.BatchNorm2d(3)(tiles)[:, :, ::4, ::4].flatten(1),
        lambda tiles: tiles.mean((2, 3)) + torch.randn(len(tiles), 3),
    ],
)
def test_features_of_chance_or_of_the_batch_are_refused(function):
    torch.manual_seed(0)
    with pytest.raises(
        ValueError, match=r"the same features alone and beside others, got .* in training mode\?$"
    ):
        with torch.inference_mode():
            encoder(function).probe(16, None)


def test_features_that_are_never_finite_are_refused():
    with pytest.raises(ValueError, match=r"^expected finite features of the encoder, got NaN or infinity"):
        encoder(lambda tiles: tiles.mean((2, 3)) / 0).probe(16, None)


def test_autocast_reaches_the_encoder():
    linear = nn.Linear(3, 2)
    run = lambda autocast: encoder(lambda tiles: linear(tiles.mean((2, 3))), autocast)  # noqa: E731
    tiles = torch.rand(5, 3, 4, 4)
    with torch.inference_mode():
        full, half = run(None)(tiles), run(torch.bfloat16)(tiles)
        expected = linear.bfloat16()(tiles.mean((2, 3)).bfloat16()).float().numpy()
    assert np.array_equal(half, expected)
    assert 0 < np.abs(full - half).max() < 0.05


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda tiles: tiles, r"expected an encoder that returns \(1, d\) for 1 tiles, got \(1, 3, 8, 8\)"),
        (
            lambda tiles: tiles.mean((0, 2, 3)),
            r"expected an encoder that returns \(1, d\) for 1 tiles, got \(3,\)",
        ),
        (lambda tiles: [tiles], r"expected an encoder that returns \(1, d\) for 1 tiles, got list"),
        (
            lambda tiles: tiles.mean((2, 3)).long(),
            r"expected floating-point features of the encoder, got torch.int64",
        ),
    ],
)
def test_what_an_encoder_may_not_return(function, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        encoder(function).probe(8, None)


def test_the_device_is_the_users_word_or_the_parameters():
    assert device_of(torch.sin, None) == CPU
    assert device_of(nn.Linear(1, 1, device="meta"), None) == torch.device("meta")
    assert device_of(nn.Linear(1, 1), "meta") == torch.device("meta")
