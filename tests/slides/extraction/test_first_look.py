"""The first look at a slide reads no pixel twice, and its picture is large enough to look at."""

from healnet.slides.extraction.first_look import SlideJob, first_look
from healnet.slides.features.feature_writer import ExtractionSettings
from healnet.slides.slide import Slide


def test_a_slide_without_coarse_levels_is_read_once(slide_writer, tmp_path, monkeypatch):
    painted = [(200, 300, 1100, 900, (150, 80, 160))]
    path = slide_writer(tmp_path / "a.tif", (1600, 1200), painted, levels=(1,))
    expected = Slide(path).tissue().area_mm2
    read = []
    original = Slide.scaled_region

    def counted(self, x, y, width, height, downsample):
        read.append(width * downsample[0] * height * downsample[1])
        return original(self, x, y, width, height, downsample)

    monkeypatch.setattr(Slide, "scaled_region", counted)
    look = first_look(SlideJob("a", path, None), ExtractionSettings(128, 0.5, 0, 0.5, 0.0))
    assert round(sum(read)) == 1600 * 1200
    assert look.overview.shape == (450, 600, 3)
    assert look.tiles.tissue.mask.shape == (75, 100)
    assert look.tiles.tissue.area_mm2 == expected
    assert tuple(look.overview[225, 225]) == (150, 80, 160)
