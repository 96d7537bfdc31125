import json
import tracemalloc
from pathlib import Path

import geojson
import jsonschema
import numpy as np
import pytest
import shapely
from shapely.geometry import box, shape

from healnet.explain import regions_to_geojson, to_geojson

SCHEMA = json.loads((Path(__file__).parents[2] / "reference" / "geojson.schema.json").read_text())
HOSTILE = 'a"},{"x\\</script>\n\u2028é'


def written(tmp_path, *args, **options):
    return json.loads(to_geojson(*args, tmp_path / "s.geojson", **options).read_text(encoding="utf-8"))


@pytest.fixture
def patches():
    rng = np.random.default_rng(0)
    coords = np.unique(rng.integers(0, 90, (300, 2)), axis=0) * 224
    return coords, 224, rng.standard_normal(len(coords))


def test_it_is_valid_by_the_schema(tmp_path, patches):
    coords, _, scores = patches
    found = written(tmp_path, *patches, measurements={HOSTILE: scores**2}, classification=HOSTILE)
    jsonschema.validate(found, SCHEMA)
    parsed = geojson.loads(json.dumps(found))
    assert parsed.is_valid
    assert len(found["features"]) == len(coords)
    assert found["features"][7]["properties"]["measurements"][HOSTILE] == scores[7] ** 2
    assert found["features"][7]["properties"]["classification"]["name"] == HOSTILE


def test_the_schema_itself_refuses_open_rings_and_missing_members(tmp_path, patches):
    found = written(tmp_path, *patches)
    found["features"][0]["geometry"]["coordinates"][0].pop()
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(found, SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"type": "FeatureCollection"}, SCHEMA)


def test_an_independent_parser_reads_the_squares_back(tmp_path, patches):
    coords, footprint, scores = patches
    features = written(tmp_path, *patches)["features"]
    for feature, (x, y), score in zip(features, coords, scores, strict=True):
        polygon = shape(feature["geometry"])
        assert polygon.equals(box(x, y, x + footprint, y + footprint))
        assert polygon.exterior.is_ccw
        assert feature["properties"]["measurements"]["attention"] == score
    assert shapely.union_all([shape(f["geometry"]) for f in features]).area == len(coords) * footprint**2


def test_measurements_colors_and_ids(tmp_path):
    first, second = written(tmp_path, [[0, 0], [8, 0]], 8, [5.0, -1.0], name="risk", object_type="detection")[
        "features"
    ]
    assert first["properties"]["measurements"] == {"risk": 5.0, "risk percentile": 100.0}
    assert first["properties"]["color"] == [253, 231, 36]
    assert second["properties"]["color"] == [68, 1, 84]
    assert first["properties"]["objectType"] == "detection"
    assert first["id"] != second["id"]


def test_ids_are_the_same_again_and_differ_between_slides_and_doubled_patches(tmp_path):
    def ids(slide):
        return [f["id"] for f in written(tmp_path, [[0, 0], [0, 0]], 8, [1.0, 2.0], slide=slide)["features"]]

    assert ids("a") == ids("a")
    assert len(set(ids("a") + ids("b"))) == 4


def test_no_patches_is_an_empty_collection(tmp_path):
    assert written(tmp_path, np.empty((0, 2)), 8, [])["features"] == []


def test_fractions_of_pixels_are_kept(tmp_path):
    ring = written(tmp_path, [[0.25, 1]], 10.5, [1.0])["features"][0]["geometry"]["coordinates"][0]
    assert ring == [[0.25, 1], [10.75, 1], [10.75, 11.5], [0.25, 11.5], [0.25, 1]]


def test_many_chunks_are_one_collection(tmp_path):
    n = 9000
    coords = np.stack([np.arange(n) * 8, np.zeros(n)], axis=1)
    features = written(tmp_path, coords, 8, np.arange(n))["features"]
    assert [f["properties"]["measurements"]["attention"] for f in features] == list(range(n))


def test_a_run_that_fails_leaves_no_half_file(tmp_path):
    folder = tmp_path / "s.geojson"
    folder.mkdir()
    with pytest.raises(OSError, match="directory"):
        to_geojson([[0, 0]], 8, [2.0], folder)
    assert list(tmp_path.iterdir()) == [folder]


def test_memory_does_not_grow_with_the_file(tmp_path):
    """Streamed: 16,000 tiles take less memory than the text they become; held whole, it would be there twice."""
    n = 16_000
    coords = np.stack([np.arange(n) * 8.0, np.zeros(n)], axis=1)
    scores = np.random.default_rng(0).random(n)
    tracemalloc.start()
    try:
        path = to_geojson(coords, 8, scores, tmp_path / "s.geojson")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 0.8 * path.stat().st_size


def test_an_older_file_is_replaced_whole(tmp_path):
    path = to_geojson(np.zeros((5000, 2)), 8, np.arange(5000), tmp_path / "s.geojson")
    to_geojson([[0, 0]], 8, [1.0], path)
    assert len(json.loads(path.read_text())["features"]) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["s.geojson"]


def test_wrong_input_is_refused_before_anything_is_written(tmp_path):
    path = tmp_path / "s.geojson"
    with pytest.raises(
        ValueError, match=r"^expected an object type of annotation, detection, tile, cell, got 'region'$"
    ):
        to_geojson([[0, 0]], 8, [1.0], path, object_type="region")
    with pytest.raises(ValueError, match=r"^expected finite scores, got nan at position 0$"):
        to_geojson([[0, 0]], 8, [np.nan], path)
    message = (
        r"^measurement 'attention': expected a new name and 1 numbers, "
        r"got 1 beside \['attention', 'attention percentile'\]$"
    )
    with pytest.raises(ValueError, match=message):
        to_geojson([[0, 0]], 8, [1.0], path, measurements={"attention": [1.0]})
    assert not list(tmp_path.iterdir())


def test_patches_are_cut_off_at_the_slides_edge(tmp_path):
    features = written(tmp_path, [[-4, 0], [96, 40]], 8, [1.0, 2.0], level0_size=(100, 44))["features"]
    assert [shape(f["geometry"]).bounds for f in features] == [(0, 0, 4, 8), (96, 40, 100, 44)]
    with pytest.raises(
        ValueError, match=r"^the patch at \[96.0, 40.0\] lies outside a slide of 90 x 44 level-0 pixels"
    ):
        written(tmp_path, [[96, 40]], 8, [1.0], level0_size=(90, 44))


def regions(tmp_path, *args, **options):
    return json.loads(regions_to_geojson(*args, tmp_path / "r.geojson", **options).read_text())


def test_regions_are_the_union_of_the_high_scored_patches(tmp_path, patches):
    coords, footprint, scores = patches
    found = regions(tmp_path, *patches, threshold=60, classification=HOSTILE)
    jsonschema.validate(
        found, json.loads(json.dumps(SCHEMA).replace("definitions/square", "definitions/ring"))
    )
    assert geojson.loads(json.dumps(found)).is_valid
    high = scores >= np.quantile(scores, 0.6)
    union = shapely.union_all([box(x, y, x + footprint, y + footprint) for x, y in coords[high]])
    outlines = [shape(f["geometry"]) for f in found["features"]]
    assert len(outlines) < high.sum()
    assert shapely.union_all(outlines).equals(union)
    assert sum(outline.area for outline in outlines) == union.area
    assert sum(f["properties"]["measurements"]["patches"] for f in found["features"]) == high.sum()
    for feature, outline in zip(found["features"], outlines, strict=True):
        own = [
            score
            for (x, y), score in zip(coords, scores, strict=True)
            if score in scores[high] and outline.contains(shapely.Point(x + 112, y + 112))
        ]
        measured = feature["properties"]["measurements"]
        assert measured["attention mean"] == pytest.approx(np.mean(own))
        assert measured["attention max"] == max(own)
        assert measured["area px^2"] == outline.area
        assert feature["properties"]["classification"]["name"] == HOSTILE


def test_a_ring_of_patches_keeps_its_hole_and_overlaps_are_not_counted_twice(tmp_path):
    ring = [[x, y] for x in (0, 8, 16) for y in (0, 8, 16) if (x, y) != (8, 8)]
    (region,) = regions(tmp_path, [*ring, [4, 0]], 8, [1.0] * 9, threshold=0)["features"]
    assert len(region["geometry"]["coordinates"]) == 2
    assert shape(region["geometry"]).area == 8 * 64
    assert region["properties"]["measurements"]["patches"] == 9


def test_regions_are_cut_off_at_the_slides_edge_and_keep_their_ids(tmp_path):
    def found(slide):
        return regions(
            tmp_path, [[-4, -4], [8, 8]], 8, [1.0, 2.0], threshold=0, level0_size=(12, 12), slide=slide
        )

    assert [shape(f["geometry"]).bounds for f in found("a")["features"]] == [(0, 0, 4, 4), (8, 8, 12, 12)]
    ids = [[f["id"] for f in found(slide)["features"]] for slide in ("a", "a", "b")]
    assert ids[0] == ids[1]
    assert len({*ids[0], *ids[2]}) == 4


def test_regions_of_nothing_and_wrong_thresholds(tmp_path):
    assert regions(tmp_path, np.empty((0, 2)), 8, [])["features"] == []
    with pytest.raises(ValueError, match=r"^expected a threshold from 0 to 100, as a percentile, got 900$"):
        regions(tmp_path, [[0, 0]], 8, [1.0], threshold=900)
