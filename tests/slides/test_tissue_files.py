"""Masks go to QuPath's outlines and come back pixel by pixel; hostile files are refused by name."""

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from shapely.geometry import Point, Polygon, shape

from healnet.slides.slide import Slide
from healnet.slides.tissue import Tissue
from healnet.slides.tissue_files import outlines, read_tissue, write_tissue


@pytest.fixture(scope="module")
def slide(slide_writer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    return Slide(slide_writer(folder / "a.tif", (600, 500), levels=(1,)))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 9999), height=st.integers(1, 12), width=st.integers(1, 12), share=st.floats(0, 1))
def test_outlines_hold_exactly_the_pixels_of_the_mask(seed, height, width, share):
    mask = np.random.default_rng(seed).random((height, width)) < share
    polygons = [Polygon(rings[0], rings[1:]) for rings in outlines(mask)]
    assert all(polygon.is_valid for polygon in polygons)
    assert sum(polygon.area for polygon in polygons) == mask.sum()
    for y, x in np.ndindex(mask.shape):
        assert sum(p.contains(Point(x + 0.5, y + 0.5)) for p in polygons) == mask[y, x]


def test_a_mask_comes_back_from_its_file_as_it_was(slide, tmp_path):
    mask = np.zeros((500, 600), bool)
    mask[40:300, 50:420] = True
    mask[100:140, 100:160] = False
    mask[400:450, 500:520] = True
    write_tissue(tmp_path / "a.geojson", Tissue(mask, (1.0, 1.0), 0.0, 0.1, np.zeros_like(mask)))
    back = read_tissue(tmp_path / "a.geojson", slide)
    assert np.array_equal(back.mask, mask)
    assert back.area_mm2 == pytest.approx(mask.sum() * 0.25e-6)
    content = json.loads((tmp_path / "a.geojson").read_text())
    areas = sorted(shape(feature["geometry"]).area for feature in content["features"])
    assert areas == [50 * 20, 260 * 370 - 40 * 60]
    assert content["features"][0]["properties"]["objectType"] == "annotation"


@pytest.mark.parametrize("wrap", ["collection", "list", "feature", "geometry"])
def test_annotations_in_every_form_that_qupath_exports(slide, tmp_path, wrap):
    square = [[100.0, 50.0], [300.0, 50.0], [300.0, 250.0], [100.0, 250.0], [100.0, 50.0]]
    hole = [[150.0, 100.0], [200.0, 100.0], [200.0, 150.0], [150.0, 150.0], [150.0, 100.0]]
    other = [[400.0, 300.0], [500.0, 300.0], [500.0, 400.0]]  # not closed
    geometry = {"type": "MultiPolygon", "coordinates": [[square, hole], [other]]}
    feature = {"type": "Feature", "geometry": geometry, "properties": {"objectType": "annotation"}}
    point = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}, "properties": {}}
    content = {
        "collection": {"type": "FeatureCollection", "features": [point, feature]},
        "list": [feature, point],
        "feature": feature,
        "geometry": geometry,
    }[wrap]
    (tmp_path / "a.geojson").write_text(json.dumps(content))
    tissue = read_tissue(tmp_path / "a.geojson", slide)
    expected = Polygon(square, [hole]).area + Polygon(other).area
    assert tissue.mask.sum() * np.prod(tissue.downsample) == pytest.approx(expected, rel=0.01)
    tiles = slide.tiles(50, 0.5, tissue_fraction=0.99, tissue=tissue)
    assert tiles.coords.tolist()[:3] == [[100, 50], [150, 50], [200, 50]]
    assert [150, 100] not in tiles.coords.tolist()


def test_an_image_of_any_size_is_a_mask(slide, tmp_path):
    pixels = np.zeros((50, 60), np.uint8)
    pixels[10:20, 30:40] = 1
    Image.fromarray(pixels).save(tmp_path / "a.png")
    tissue = read_tissue(tmp_path / "a.png", slide)
    assert (tissue.downsample, tissue.mask.sum()) == ((10.0, 10.0), 100)
    assert slide.tiles(50, 0.5, tissue_fraction=1, tissue=tissue).coords.tolist() == [
        [300, 100],
        [350, 100],
        [300, 150],
        [350, 150],
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.geojson", "{", r"expected GeoJSON with polygons in level-0 pixels, got another content \("),
        ("a.geojson", "[]", r"expected GeoJSON with polygons in level-0 pixels, got 0 polygons of 0 points"),
        (
            "a.geojson",
            '{"type": "Point", "coordinates": [1, 2]}',
            r"got 0 polygons of 0 points",
        ),
        (
            "a.geojson",
            '{"type": "Polygon", "coordinates": [[[1, 2], [3, 4]]]}',
            r"got a ring of under 3 points",
        ),
        ("a.geojson", '{"type": "Polygon", "coordinates": [[[1, NaN], [3, 4], [5, 6]]]}', r"not finite"),
        ("a.geojson", "[" * 100_000, r"got another content \("),
        ("a.png", "no image", r"expected GeoJSON or an image as tissue mask \("),
    ],
)
def test_what_is_no_mask(slide, tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=f"^{re.escape(str(tmp_path / name))}: .*{message}"):
        read_tissue(tmp_path / name, slide)


def test_an_image_of_other_proportions_is_of_another_slide(slide, tmp_path):
    Image.fromarray(np.ones((60, 50), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"of the whole slide of 600 x 500 pixels, got 50 x 60$"):
        read_tissue(tmp_path / "a.png", slide)
    with pytest.raises(FileNotFoundError, match=r"b\.png: no such tissue mask$"):
        read_tissue(tmp_path / "b.png", slide)
