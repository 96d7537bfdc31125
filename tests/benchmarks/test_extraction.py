"""How much does extraction add to reading the tiles? `pytest tests/benchmarks/test_extraction.py` prints both.

The encoder takes the mean of each color, so that all the rest shows: finding the tissue, sharpness, checks, pictures and
files. The plain formulation does none of it. It reads the tiles that extraction chose, one after the other or by the workers
of a DataLoader, encodes them and writes one HDF5 file. Processor time of all processes, each the least of three rounds in
turn; nothing gates on it.
"""

import io
import resource
import struct

import h5py
import numpy as np
import openslide
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from healnet.slides import Slide, extract_features

TITLE = "| slide | workers | plain, s | extraction, s | ratio |\n|---|---|---|---|---|"
SIDES, TILE, MPP = (9000, 18000), 256, 0.5  # 20 and 80 square millimeters; whole scans have 200 to 1,000


def write_jpeg_pyramid(path, pixels, downsamples):
    """A TIFF of JPEG tiles, as most scanners write it; tifffile would need a further package for JPEG."""
    link, end = 4, 8
    with path.open("wb") as file:

        def put(kind, *values):
            place = file.tell()
            file.write(struct.pack(f"<{len(values)}{kind}", *values))
            return place

        file.write(struct.pack("<2sHI", b"II", 42, 0))
        for downsample in downsamples:
            level = Image.fromarray(pixels).reduce(downsample)
            places, sizes = [], []
            for top in range(0, level.height, TILE):
                for left in range(0, level.width, TILE):
                    data = io.BytesIO()
                    level.crop((left, top, left + TILE, top + TILE)).save(data, "JPEG", quality=80)
                    places.append(file.tell())
                    sizes.append(file.write(data.getvalue()))
            file.write(bytes(file.tell() % 2))
            resolution = put("I", round(1e8 / (MPP * downsample)), 10_000)
            tags = [
                (254, "I", 1, int(downsample > 1)),
                (256, "I", 1, level.width),
                (257, "I", 1, level.height),
                (258, "H", 3, put("H", 8, 8, 8)),
                (259, "I", 1, 7),
                (262, "I", 1, 6),
                (277, "I", 1, 3),
                (282, "R", 1, resolution),
                (296, "I", 1, 3),
                (322, "I", 1, TILE),
                (323, "I", 1, TILE),
                (324, "I", len(places), put("I", *places)),
                (325, "I", len(sizes), put("I", *sizes)),
                (530, "H", 2, 2 | 2 << 16),
            ]
            start = put("H", len(tags))
            for tag, kind, count, value in tags:
                file.write(struct.pack("<HHII", tag, {"H": 3, "I": 4, "R": 5}[kind], count, value))
            put("I", 0)
            end = file.tell()
            file.seek(link)
            put("I", start)
            link = end - 4
            file.seek(end)
    return path


@pytest.fixture(scope="module", params=SIDES)
def slide(request, tmp_path_factory):
    """Grainy pink tissue on glass, with coarse levels."""
    draw = np.random.default_rng(0)
    pixels = np.full((request.param, request.param, 3), 243, np.uint8)
    inner = pixels[600:-600, 600:-600]
    grain = draw.integers(-40, 41, (inner.shape[0] // 4 + 1, inner.shape[1] // 4 + 1, 1), dtype=np.int16)
    grain = grain.repeat(4, 0).repeat(4, 1)[: inner.shape[0], : inner.shape[1]]
    inner[:] = np.clip(np.array([200, 120, 170], np.int16) + grain, 0, 255)
    return write_jpeg_pyramid(tmp_path_factory.mktemp("slides") / "a.tif", pixels, (1, 4, 16))


def means(tiles):
    return tiles.mean((2, 3))


class PlainTiles(Dataset):
    def __init__(self, path, coords, footprint):
        self.path, self.coords, self.footprint, self.handle = path, coords, footprint, None

    def __len__(self):
        return len(self.coords)

    def __getitem__(self, index):
        self.handle = self.handle or openslide.OpenSlide(self.path)
        image = self.handle.read_region(tuple(self.coords[index].tolist()), 0, (self.footprint,) * 2)
        image = image.convert("RGB").resize((TILE, TILE), Image.Resampling.BOX)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def plain(path, tiles, workers, output):
    loader = DataLoader(PlainTiles(path, tiles.coords, tiles.footprint), batch_size=64, num_workers=workers)
    features = torch.cat([means(batch.float().div_(255)) for batch in loader])
    with h5py.File(output, "w") as file:
        file["features"], file["coords"] = features.numpy(), tiles.coords
    return features


def processor_seconds(function):
    def now():
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    start = now()
    result = function()
    return now() - start, result


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("mpp", [MPP, 2 * MPP])
def test_extraction_beside_plain_reading(slide, tmp_path, report, workers, mpp):
    tiles = Slide(slide).tiles(TILE, mpp)
    by_hand, ours = [], []
    for round_ in range(3):
        seconds, features = processor_seconds(lambda: plain(slide, tiles, workers, tmp_path / "plain.h5"))
        by_hand.append(seconds)
        output = tmp_path / str(round_)
        options = {"size": TILE, "mpp": mpp, "num_workers": workers, "progress": False}
        seconds, results = processor_seconds(
            lambda output=output, options=options: extract_features([slide], means, output, **options)
        )
        ours.append(seconds)
        assert [(result.tiles, result.error) for result in results] == [(len(tiles), "")]
        with h5py.File(output / "a.h5") as file:
            torch.testing.assert_close(torch.from_numpy(file["features"][:]), features, rtol=0, atol=2e-3)
    first, second = min(by_hand), min(ours)
    what = f"| {len(tiles)} tiles of {TILE} at {mpp} mpp"
    report(TITLE, f"{what} | {workers} | {first:.2f} | {second:.2f} | {second / first:.2f} |")
