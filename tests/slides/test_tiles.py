"""Tiles cover a slide, carry their true places, and read alike in any process."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from healnet.slides.slide import Slide
from healnet.slides.tiles import tile_grid


@settings(max_examples=80, deadline=None)
@given(
    width=st.integers(1, 97),
    height=st.integers(1, 97),
    footprint=st.integers(1, 31),
    overlap=st.integers(0, 30),
)
def test_the_grid_covers_every_pixel_with_no_tile_to_spare(width, height, footprint, overlap):
    stride = max(1, footprint - overlap)
    coords = tile_grid(width, height, footprint, stride)
    covered = np.zeros((height, width), bool)
    for x, y in coords:
        covered[y : y + footprint, x : x + footprint] = True
    assert covered.all()
    for axis, length in enumerate((width, height)):
        starts = np.unique(coords[:, axis])
        assert np.array_equal(starts, stride * np.arange(len(starts)))
        # Without its last row or column the grid would fall short.
        assert len(starts) == 1 or starts[-2] + footprint < length


@pytest.fixture(scope="module")
def slide(slide_writer, tmp_path_factory):
    path = tmp_path_factory.mktemp("slides") / "a.tif"

    def texture(x, y):
        x, y = np.broadcast_arrays(x, y)
        return np.stack((100 + x % 101, y % 103, 60 + (x + y) % 107), axis=-1).astype(np.uint8)

    return Slide(slide_writer(path, (1500, 1100), [(256, 256, 1024, 768, "texture")], texture=texture))


def test_tiles_of_the_tissue_and_no_others(slide):
    tiles = slide.tiles(size=128, mpp=0.5, tissue_fraction=0.5)
    expected = [(x, y) for y in range(256, 768, 128) for x in range(256, 1024, 128)]
    assert [tuple(row) for row in tiles.coords] == expected
    assert tiles.coords.dtype == np.int64
    assert (tiles.footprint, tiles.size, tiles.overlap, tiles.mpp) == (128, 128, 0, 0.5)


def test_a_tile_holds_the_pixels_of_its_place(slide):
    tiles = slide.tiles(size=128, mpp=0.5, tissue_fraction=0.5)
    tile = tiles[7]
    x, y = tiles.coords[7]
    assert tile.dtype == torch.uint8
    assert tile.shape == (3, 128, 128)
    columns, rows = np.meshgrid(x + np.arange(128), y + np.arange(128))
    assert np.array_equal(tile[0], 100 + columns % 101)
    assert np.array_equal(tile[1], rows % 103)
    assert np.array_equal(tile[2], 60 + (columns + rows) % 107)


def test_scale_and_overlap_are_in_the_tiles_pixels(slide):
    tiles = slide.tiles(size=64, mpp=1.0, overlap=16, tissue_fraction=0)
    assert tiles.footprint == 128
    assert np.array_equal(np.unique(tiles.coords[:, 0]), 96 * np.arange(16))
    assert tiles[0].shape == (3, 64, 64)
    assert tiles.tissue is None


def test_level_0_pixels_need_no_scale(slide_writer, tmp_path):
    slide = Slide(slide_writer(tmp_path / "a.tif", (300, 200), mpp=None))
    tiles = slide.tiles(size=128, mpp=None, tissue_fraction=0)
    assert tiles.coords.tolist() == [[0, 0], [128, 0], [256, 0], [0, 128], [128, 128], [256, 128]]
    assert (tiles[5][:, 80:] == 255).all()  # beyond the slide
    assert (tiles[5][0, :72, :44] == 243).all()


def test_a_mask_of_the_users_own(slide):
    tissue = slide.tissue()
    nothing = slide.tiles(
        tissue=tissue.__class__(tissue.mask & False, tissue.downsample, 0.0, 0.1, tissue.pen)
    )
    assert len(nothing) == 0
    assert nothing.coords.shape == (0, 2)


def test_workers_read_what_one_process_reads(slide):
    tiles = slide.tiles(size=128, mpp=0.5)
    tiles[0]  # the parent's handle is open before the workers are forked
    here = torch.stack([tiles[i] for i in range(len(tiles))])
    there = torch.cat(list(DataLoader(tiles, batch_size=5, num_workers=2)))
    assert torch.equal(here, there)
    assert torch.equal(pickle.loads(pickle.dumps(tiles))[3], here[3])


class Handles(Dataset):
    """Whether a worker reads through the handle that it inherited."""

    def __init__(self, slide):
        self.slide, self.inherited = slide, slide._handle

    def __len__(self):
        return 1

    def __getitem__(self, index):
        self.slide.region(0, 0, 5, 5)
        return self.slide._handle is self.inherited


@pytest.mark.posix
def test_a_forked_worker_opens_the_slide_for_itself(slide):
    slide.region(0, 0, 5, 5)
    assert Handles(slide)[0]
    (shared,) = DataLoader(Handles(slide), num_workers=1, multiprocessing_context="fork")
    assert not shared


def test_a_transform_runs_on_each_tile(slide):
    tiles = slide.tiles(size=128, mpp=0.5)
    assert torch.equal(tiles.with_transform(lambda tile: tile.float() / 255)[2], tiles[2].float() / 255)


@pytest.mark.parametrize(
    "options", [{"size": 0}, {"overlap": 256}, {"overlap": -1}, {"tissue_fraction": 1.5}]
)
def test_settings_that_cannot_be(slide, options):
    with pytest.raises(
        ValueError, match=r"^expected size >= 1, 0 <= overlap < size and 0 <= tissue_fraction <= 1, got size"
    ):
        slide.tiles(**options)
