import re

import numpy as np
import openslide
import pytest
from matplotlib import colormaps

from healnet.explain import to_pyramid_tiff


def color(value):
    return np.round(np.asarray(colormaps["viridis"](value)[:3]) * 255)


def test_openslide_opens_it_and_every_level_shows_the_mean_of_its_scores(tmp_path):
    scores = np.zeros((700, 2100), dtype=np.float32)
    scores[:350] = 1
    scores[:, 1024:] = 0.5
    scores[600:] = np.nan
    written = to_pyramid_tiff(scores, tmp_path / "x.tif", (0, 1), mpp=0.25, tile=256)
    assert written == tmp_path / "x.tif"
    with openslide.OpenSlide(tmp_path / "x.tif") as slide:
        assert slide.level_dimensions == ((2100, 700), (1050, 350), (525, 175))
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.25)
        for level in range(3):
            step = 2**level
            picture = np.asarray(
                slide.read_region((0, 0), level, slide.level_dimensions[level]).convert("RGB")
            )
            for (x, y), value in {(100, 100): 1.0, (100, 500): 0.0, (2000, 100): 0.5}.items():
                assert np.abs(picture[y // step, x // step] - color(value)).max() <= 1
            assert (picture[690 // step, 2000 // step] == 255).all()


def test_a_lower_level_averages_what_is_there(tmp_path):
    scores = np.full((2048, 2048), np.nan)
    scores[0, 0], scores[0, 1] = 0.0, 0.8  # half of a square of four is unknown
    to_pyramid_tiff(scores, tmp_path / "x.tif", (0, 1))
    with openslide.OpenSlide(tmp_path / "x.tif") as slide:
        picture = np.asarray(slide.read_region((0, 0), 1, (2, 2)).convert("RGB"))
        assert np.abs(picture[0, 0] - color(0.4)).max() <= 1
        assert (picture[1, 1] == 255).all()


@pytest.mark.parametrize("kept", [2**26, 2**20, 2**16])
def test_low_levels_of_a_large_picture_are_the_same_from_memory_and_from_the_source(
    tmp_path, monkeypatch, kept
):
    monkeypatch.setattr("healnet.explain.pictures.pyramid.KEPT", kept)
    ramp = np.broadcast_to(np.linspace(0, 1, 4500, dtype=np.float32), (2100, 4500))
    to_pyramid_tiff(ramp, tmp_path / "x.tif", (0, 1))
    with openslide.OpenSlide(tmp_path / "x.tif") as slide:
        assert slide.level_dimensions == ((4500, 2100), (2250, 1050), (1125, 525), (563, 263))
        picture = np.asarray(slide.read_region((0, 0), 3, (563, 263)).convert("RGB")).astype(int)
        for x in range(562):
            assert (
                np.abs(picture[100, x] - color(ramp[0, 8 * x : 8 * x + 8].mean())).max() <= 4
            )  # one color of 256


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((4, 4, 3), {"limits": (0, 1)}, "expected scores of shape (h, w), got (4, 4, 3)"),
        ((4, 4), {"limits": (1, 1)}, "expected limits that rise, got (1, 1)"),
        ((4, 4), {"limits": (0, 1), "tile": 100}, "expected a tile of a multiple of 16, got 100"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, shape, options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        to_pyramid_tiff(np.zeros(shape), tmp_path / "x.tif", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mpp", [0, -0.5, float("nan")])
def test_a_scale_that_is_none_is_refused(tmp_path, mpp):
    with pytest.raises(ValueError, match=r"^expected mpp above 0, in microns per pixel, got "):
        to_pyramid_tiff(np.zeros((3, 3)), tmp_path / "s.tif", (0, 1), mpp=mpp)
    assert not list(tmp_path.iterdir())
