import numpy as np
import pytest
import tifffile

from healnet.explain import plot_contact_sheet, top_patches
from healnet.slides.slide import Slide


@pytest.fixture
def slide(tmp_path):
    """512 x 256, its red the column and its green the row, halved; level 1 is black."""
    y, x = np.mgrid[:256, :512] // 2
    image = np.stack([x, y, np.zeros_like(x)], axis=-1).astype(np.uint8)
    with tifffile.TiffWriter(tmp_path / "s.tif") as file:
        file.write(image, tile=(128, 128), photometric="rgb", compression="zlib")
        file.write(
            np.zeros((128, 256, 3), np.uint8),
            tile=(128, 128),
            photometric="rgb",
            subfiletype=1,
            compression="zlib",
        )
    return Slide(tmp_path / "s.tif", mpp=0.5)


def test_the_best_patches_are_read_at_full_resolution(slide):
    coords = [[0, 0], [64, 0], [128, 64], [448, 192]]
    best = top_patches(slide, coords, 64, [0.1, 5.0, 0.2, 3.0], k=2)
    assert [(p.x, p.y, p.score, p.position) for p in best] == [(64, 0, 5.0, 1), (448, 192, 3.0, 3)]
    assert best[1].image.shape == (64, 64, 3)
    assert best[1].image[0, 0].tolist() == [224, 96, 0]
    assert best[1].image[63, 63].tolist() == [255, 127, 0]


def test_overlapping_patches_are_passed_over(slide):
    coords = [[100, 0], [116, 0], [132, 0], [164, 0]]
    scores = [4.0, 3.0, 2.0, 1.0]
    assert [p.position for p in top_patches(slide, coords, 64, scores, k=3)] == [0, 2, 3]
    assert [p.position for p in top_patches(slide, coords, 64, scores, k=3, apart=0)] == [0, 1, 2]


def test_another_scale_gives_as_many_microns(slide):
    assert top_patches(slide, [[0, 0]], 64, [1.0], mpp=1.0)[0].image.shape == (32, 32, 3)
    slide.mpp = None
    with pytest.raises(
        ValueError, match=r"^the slide does not say its microns per pixel; leave mpp out, or open it"
    ):
        top_patches(slide, [[0, 0]], 64, [1.0], mpp=1.0)
    with pytest.raises(ValueError, match=r"^expected k >= 1, got 0$"):
        top_patches(slide, [[0, 0]], 64, [1.0], k=0)


def test_the_sheet_shows_each_picture_with_its_caption():
    images = [np.full((4, 4, 3), value, np.uint8) for value in (10, 20, 30)]
    sheet = plot_contact_sheet(images, ["a", "b", "c"], columns=2)
    assert [ax.get_title() for ax in sheet] == ["a", "b", "c", ""]
    assert [int(ax.images[0].get_array()[0, 0, 0]) for ax in sheet[:3]] == [10, 20, 30]
    with pytest.raises(ValueError, match=r"^expected patches and a caption for each, got 3 and 1$"):
        plot_contact_sheet(images, ["a"])


def test_found_patches_bring_rank_score_and_scale(slide):
    best = top_patches(slide, [[0, 0], [64, 0], [128, 64]], 64, [0.1, 5.0, 0.25], k=3)
    assert [patch.mpp for patch in best] == [0.5] * 3
    sheet = plot_contact_sheet(best, columns=2)
    assert [panel.get_title() for panel in sheet] == ["#1   5", "#2   0.25", "#3   0.1", ""]
    (bar,) = sheet[0].patches  # the others have the same scale
    assert [text.get_text() for text in sheet[0].texts] == ["10 µm"]
    assert bar.get_width() == 20  # pixels of 0.5 microns
    assert not any(panel.patches for panel in sheet[1:])
    coarse = top_patches(slide, [[0, 0]], 64, [0.1], mpp=1.0)
    assert [patch.mpp for patch in coarse] == [1.0]
    assert plot_contact_sheet(coarse)[0].texts[0].get_text() == "10 µm"
    assert plot_contact_sheet(coarse)[0].patches[0].get_width() == 10
    plain = [np.zeros((64, 64, 3))]
    assert plot_contact_sheet(plain, mpp=2.0)[0].texts[0].get_text() == "50 µm"
    assert not plot_contact_sheet(plain)[0].patches


def test_a_reader_without_a_scale_gives_patches_without_one():
    class Reader:
        def region(self, x, y, width, height, mpp=None):
            return np.full((height, width, 3), x, np.uint8)

    (best,) = top_patches(Reader(), [[7, 0]], 4, [1.0])
    assert best.mpp is None
    assert best.image[0, 0].tolist() == [7, 7, 7]
    assert not plot_contact_sheet([best])[0].patches
    with pytest.raises(ValueError, match=r"^expected columns >= 1, got 0$"):
        plot_contact_sheet([best], columns=0)
