"""Pixels and voxels: channels, then places by hand; padding, holes and sizes."""

import math

import pytest
import torch
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st

from healnet.encoders import GridEncoder
from healnet.encoders.grid import axis_positions
from healnet.inputs import Masked
from healnet.nn.fourier import fourier_features
from healnet.testing import check_encoder


def test_tokens_by_hand():
    image = torch.tensor(
        [[[[5.0], [6.0]], [[7.0], [8.0]], [[9.0], [10.0]]]], dtype=torch.float64
    )  # 3 x 2 pixels
    tokens = GridEncoder(channels=1, ndim=2, num_bands=1, max_freq=10.0)(image)
    wave = lambda x: [math.sin(math.pi * x), math.cos(math.pi * x), x]  # noqa: E731
    expected = [[5 + 2 * i + j, *wave(i - 1.0), *wave(2.0 * j - 1)] for i in range(3) for j in range(2)]
    assert tokens.mask is None
    torch.testing.assert_close(
        tokens.values[0], torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-14
    )


@pytest.mark.parametrize("axes", [(5,), (3, 1), (2, 3, 5), (2, 1, 3, 2)])
def test_channels_then_fourier_features_of_the_meshgrid(axes):
    grid = torch.randn(2, *axes, 7, dtype=torch.float64)
    tokens = GridEncoder(7, len(axes), num_bands=2, max_freq=10.0)(grid)
    lines = [torch.linspace(-1, 1, size, dtype=torch.float64) for size in axes]
    places = fourier_features(torch.stack(torch.meshgrid(*lines, indexing="ij"), dim=-1), 2, 10.0)
    expected = torch.cat((grid, places.expand(2, *places.shape)), dim=-1)
    torch.testing.assert_close(tokens.values, rearrange(expected, "b ... c -> b (...) c"), rtol=0, atol=1e-14)


def test_positions_are_those_of_linspace():
    for size in (1, 2, 7, 224):
        line = torch.linspace(-1, 1, size, dtype=torch.float64)
        torch.testing.assert_close(
            axis_positions(size, torch.tensor([size]), torch.float64)[0], line, rtol=0, atol=1e-15
        )


def test_without_positions_and_channels_first():
    grid = torch.randn(2, 3, 5, 7)
    bare = GridEncoder(7, 2, positions=False)
    torch.testing.assert_close(bare(grid).values, grid.flatten(1, 2), rtol=0, atol=0)
    first = GridEncoder(7, 2, positions=False, channels_first=True)
    torch.testing.assert_close(first(grid.movedim(-1, 1)).values, bare(grid).values, rtol=0, atol=0)


def test_spacing_shortens_the_shorter_sides():
    # 3 voxels 5 mm apart span 10 mm, 5 voxels 1 mm apart 4 mm: 0.4 of [-1, 1].
    tokens = GridEncoder(1, 2, num_bands=0, spacing=(5.0, 1.0))(torch.zeros(1, 3, 5, 1, dtype=torch.float64))
    assert tokens.values[0, 0].tolist() == [0, -1, -0.4]
    assert tokens.values[0, -1].tolist() == [0, 1, 0.4]


def test_spacing_is_that_of_pixels_not_of_blocks():
    # Two blocks of 3 voxels, 1 mm each, are 3 mm apart; three blocks of 2 voxels, 3 mm each, span 12 mm.
    tokens = GridEncoder(1, 2, num_bands=0, patch=(3, 2), spacing=(1.0, 3.0))(torch.zeros(1, 6, 6, 1))
    assert tokens.values[0, :, 6:].tolist() == [[x, y] for x in (-0.25, 0.25) for y in (-1, 0, 1)]


def test_blocks_by_hand():
    image = torch.arange(15.0).reshape(1, 3, 5, 1)
    tokens = GridEncoder(1, 2, num_bands=0, patch=2)(image)  # 2 x 3 blocks, filled up with zeros
    assert tokens.values[0, :, :4].tolist() == [
        [0, 1, 5, 6],
        [2, 3, 7, 8],
        [4, 0, 9, 0],
        [10, 11, 0, 0],
        [12, 13, 0, 0],
        [14, 0, 0, 0],
    ]
    assert tokens.values[0, :, 4:].tolist() == [[-1, -1], [-1, 0], [-1, 1], [1, -1], [1, 0], [1, 1]]


@settings(max_examples=25, deadline=None)
@given(
    size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    extra=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    patch=st.integers(1, 3),
    spacing=st.sampled_from([None, (3.0, 0.5)]),
)
def test_padding_changes_nothing(size, extra, patch, spacing):
    (h, w), (dh, dw) = size, extra
    grid = torch.randn(1, h, w, 2, dtype=torch.float64)
    mask = torch.zeros(1, h + dh, w + dw, dtype=torch.bool)
    mask[:, :h, :w] = True
    padded = torch.full((1, h + dh, w + dw, 2), float("nan"), dtype=torch.float64)
    padded[:, :h, :w] = grid
    encoder = GridEncoder(2, 2, patch=patch, spacing=spacing)
    alone, batch = encoder(grid), encoder(Masked(padded, mask))
    torch.testing.assert_close(batch.values[batch.mask], alone.values[0], rtol=0, atol=1e-12)


def test_a_hole_is_masked_and_moves_nothing():
    grid = torch.randn(1, 4, 4, 1, dtype=torch.float64)
    mask = torch.ones(1, 4, 4, dtype=torch.bool)
    mask[0, 1:3, 0] = False
    encoder = GridEncoder(1, 2)
    tokens = encoder(Masked(grid, mask))
    assert torch.equal(tokens.mask, mask.flatten(1))
    torch.testing.assert_close(tokens.values[tokens.mask], encoder(grid).values[tokens.mask], rtol=0, atol=0)


@pytest.mark.parametrize("axes", [(0, 3), (3, 0)])
def test_a_grid_without_pixels_has_no_tokens(axes):
    inputs = Masked(torch.zeros(2, *axes, 1), torch.ones(2, *axes, dtype=torch.bool))
    assert GridEncoder(1, 2, spacing=(1.0, 2.0))(inputs).values.shape == (2, 0, 11)


def test_integer_pixels_become_floats():
    tokens = GridEncoder(3, 2, positions=False)(torch.full((1, 2, 2, 3), 200, dtype=torch.uint8))
    assert tokens.values.dtype == torch.float32
    assert tokens.values.unique().tolist() == [200]


@pytest.mark.parametrize("patch", [1, 2])
def test_laws(patch):
    grid = torch.randn(3, 4, 5, 2)
    check_encoder(GridEncoder(2, 2, patch=patch), grid)
    mask = torch.rand(3, 4, 5) < 0.8

    def pad(inputs):
        return Masked(
            torch.nn.functional.pad(inputs.values, (0, 0, 0, 2, 0, 3), value=float("nan")),
            torch.nn.functional.pad(inputs.mask, (0, 2, 0, 3)),
        )

    check_encoder(GridEncoder(2, 2, patch=patch), Masked(grid, mask), pad=pad, wrong=[grid[0], grid[..., :1]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ndim": 5}, "expected ndim from 1 to 4, got 5"),
        ({"patch": (2, 2, 2)}, r"expected patch to be a positive integer or 2 of them, got \(2, 2, 2\)"),
        ({"patch": 0}, "expected patch to be a positive integer or 2 of them, got 0"),
        ({"spacing": (1.0, 0.0)}, r"expected spacing to be 2 positive numbers, got \(1.0, 0.0\)"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        GridEncoder(**{"channels": 3, "ndim": 2, **options})


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"^expected a shape of \(b, axis0, axis1, 3\), got \(2, 3, 8, 8\)$"):
        GridEncoder(3, 2)(torch.zeros(2, 3, 8, 8))
    with pytest.raises(ValueError, match=r"^expected a shape of \(b, 3, axis0, axis1\), got \(2, 8, 8, 3\)$"):
        GridEncoder(3, 2, channels_first=True)(torch.zeros(2, 8, 8, 3))
    with pytest.raises(ValueError, match=r"^expected a mask of shape \(2,\) or \(2, 8, 8\), got \(2, 8\)$"):
        GridEncoder(3, 2)(Masked(torch.zeros(2, 8, 8, 3), torch.ones(2, 8).bool()))
