import numpy as np
import pytest
import tifffile
import torch

from healnet import HEALNet, Stream
from healnet.encoders import GridEncoder
from healnet.slides import Slide, SlidePixels, Tissue, slide_pieces


@pytest.fixture
def slide(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8)
    path = tmp_path / "s.tif"
    tifffile.imwrite(
        path,
        pixels,
        tile=(32, 32),
        photometric="rgb",
        compression="zlib",
        resolution=(1e4, 1e4),
        resolutionunit=3,
    )
    return Slide(path), pixels


def test_slices_are_the_pixels_of_the_slide(slide):
    slide, pixels = slide
    source = SlidePixels(slide)
    assert source.shape == (90, 130, 3)
    part = source[30:61, 100:130]
    assert part.dtype == np.float32
    assert np.allclose(part, pixels[30:61, 100:130] / 127.5 - 1, rtol=0, atol=1e-6)


def test_a_coarser_scale_is_that_of_the_array(slide):
    slide, _ = slide
    source = SlidePixels(slide, mpp=2.0)
    assert source.shape == (45, 65, 3)
    whole = slide.as_array(mpp=2.0) / 127.5 - 1
    assert np.allclose(source[0:45, 0:65], whole, rtol=0, atol=1e-6)
    assert np.abs(source[10:30, 20:50] - whole[10:30, 20:50]).max() < 0.01  # uint8 rounds once more


def test_a_model_reads_every_pixel(slide):
    slide, pixels = slide
    torch.manual_seed(0)
    model = HEALNet({"scan": GridEncoder(channels=3, ndim=2)}, depth=1).eval()
    streamed = model({"scan": Stream([slide_pieces(slide, block=32)])})
    whole = model({"scan": torch.from_numpy(pixels).float()[None] / 127.5 - 1})
    assert torch.allclose(streamed, whole, rtol=0, atol=1e-5)


def test_pixels_beside_the_tissue_are_masked_and_not_read(slide):
    slide, pixels = slide
    mask = np.zeros((9, 13), dtype=bool)  # ten pixels each
    mask[2:4, 5:8] = True
    tissue = Tissue(mask, (10.0, 10.0), 0.0, 0.1, np.zeros((9, 13, 3), np.uint8))
    pieces = slide_pieces(slide, block=16, tissue=tissue)
    read = [block for block, _, _ in pieces.walk()]
    assert {(block[0].start, block[1].start) for block in read} == {
        (y, x) for y in (16, 32) for x in (48, 64)
    }
    shown = torch.zeros(90, 130, dtype=torch.bool)
    for block, _, real in pieces.walk():
        shown[block] = real
    assert torch.equal(shown, torch.from_numpy(mask.repeat(10, 0).repeat(10, 1)))
    torch.manual_seed(0)
    model = HEALNet({"scan": GridEncoder(channels=3, ndim=2, positions=False)}, depth=1).eval()
    alone = torch.from_numpy(pixels[20:40, 50:80]).float()[None] / 127.5 - 1
    assert torch.allclose(model({"scan": Stream([pieces])}), model({"scan": alone}), rtol=0, atol=1e-5)


def test_a_slide_without_a_scale_is_read_at_its_own(tmp_path):
    tifffile.imwrite(tmp_path / "s.tif", np.zeros((64, 64, 3), np.uint8), tile=(32, 32), photometric="rgb")
    slide = Slide(tmp_path / "s.tif")
    assert SlidePixels(slide).shape == (64, 64, 3)
    with pytest.raises(ValueError, match="the file does not say its microns per pixel; say it yourself"):
        SlidePixels(slide, mpp=1.0)
