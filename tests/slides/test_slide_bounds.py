"""Slides of which a part was scanned: outlines go to QuPath, which shows that part alone, and come back to their place."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from healnet.explain import regions_to_geojson, to_geojson
from healnet.slides import Slide, Tissue, extract_features, read_patches, read_tissue, write_tissue
from healnet.slides.slide_bounds import bounds_from_properties, origin_of

CORNER = (2000, 1200)  # level-0 pixels of 0.5 microns
SIZE = (1024, 768)
SQUARE = (300, 200, 700, 600)  # of tissue, in the scanned part


def image(name, size, page, view, offset, power):
    return (
        f'<image name="{name}" uuid="{name}"><creationDate>2020-01-01T00:00:00Z</creationDate>'
        f'<device model="m" version="v"/><pixels sizeX="{size[0]}" sizeY="{size[1]}">'
        f'<dimension sizeX="{size[0]}" sizeY="{size[1]}" r="0" ifd="{page}"/></pixels>'
        f'<view sizeX="{view[0]}" sizeY="{view[1]}" offsetX="{offset[0]}" offsetY="{offset[1]}"/>'
        f"<scanSettings><objectiveSettings><objective>{power}</objective></objectiveSettings><illuminationSettings>"
        "<numericalAperture>0.8</numericalAperture><illuminationSource>brightfield</illuminationSource>"
        "</illuminationSettings></scanSettings></image>"
    )


@pytest.fixture(scope="module")
def scn(tmp_path_factory):
    """A slide of Leica's: 5000 x 4000 pixels of glass, of which `SIZE` from `CORNER` are scanned."""
    path = tmp_path_factory.mktemp("scn") / "a.scn"
    pixels = np.full((SIZE[1], SIZE[0], 3), 245, np.uint8)
    left, top, right, bottom = SQUARE
    pixels[top:bottom, left:right] = (200, 90, 160)
    glass = np.full((400, 500, 3), 245, np.uint8)
    stage, nanometers = (2_500_000, 2_000_000), 500
    description = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01"><collection name="c" uuid="u" '
        f'sizeX="{stage[0]}" sizeY="{stage[1]}"><barcode>x</barcode>'
        + image("macro", (500, 400), 1, stage, (0, 0), 0.6)
        + image("a", SIZE, 0, [nanometers * n for n in SIZE], [nanometers * n for n in CORNER], 20)
        + "</collection></scn>"
    )
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        options = {"photometric": "rgb", "tile": (256, 256), "metadata": None, "compression": "zlib"}
        resolution = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
        file.write(pixels, description=description, **resolution, **options)
        file.write(glass, **options)
    return path


def square(left, top, right, bottom, **members):
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    return {"type": "Polygon", "coordinates": [ring], **members}


def box(tissue):
    """Left, top, right and bottom of a mask in level-0 pixels."""
    y, x = np.nonzero(tissue.mask)
    low = np.array([x.min(), y.min()]) * tissue.downsample
    high = np.array([x.max() + 1, y.max() + 1]) * tissue.downsample
    return np.concatenate((low, high))


def in_level0(rectangle):
    return np.array(rectangle) + np.tile(CORNER, 2)


def test_bounds_are_those_that_the_file_states(scn, slide_writer, tmp_path):
    slide = Slide(scn)
    assert (slide.width, slide.height, slide.bounds) == (5000, 4000, (*CORNER, *SIZE))
    assert Slide(slide_writer(tmp_path / "a.tif", (600, 500), levels=(1,))).bounds == (0, 0, 600, 500)


@pytest.mark.parametrize("name", ["x", "y", "width", "height"])
@pytest.mark.parametrize("value", [None, "", "many"])
def test_bounds_of_which_one_is_missing_are_none(name, value):
    stated = {"x": "73", "y": "41", "width": "500", "height": "300"}
    properties = {f"openslide.bounds-{key}": text for key, text in (stated | {name: value}).items() if text}
    assert bounds_from_properties(properties, (1000, 800)) == (0, 0, 1000, 800)
    properties = {f"openslide.bounds-{key}": text for key, text in stated.items()}
    assert bounds_from_properties(properties, (1000, 800)) == (73, 41, 500, 300)


def test_an_origin_of_another_name_is_refused():
    with pytest.raises(ValueError, match=r"^expected an origin of bounds or level0, got 'corner'$"):
        origin_of((1, 2, 3, 4), "corner")
    assert (origin_of(None, "bounds"), origin_of((1, 2, 3, 4), "level0")) == ((0, 0), (0, 0))


def test_an_outline_drawn_in_qupath_lies_on_its_tissue(scn, tmp_path):
    slide = Slide(scn)
    (tmp_path / "a.geojson").write_text(json.dumps(square(*SQUARE)))
    drawn = read_tissue(tmp_path / "a.geojson", slide)
    assert np.abs(box(drawn) - in_level0(SQUARE)).max() <= 2  # half a pixel of the mask is 1.2
    tiles = slide.tiles(128, 0.5, tissue_fraction=0.9, tissue=drawn)
    assert len(tiles) > 0
    assert all((tiles.pixels(i) == (200, 90, 160)).all(axis=2).mean() > 0.85 for i in range(len(tiles)))


def test_what_is_exported_lies_where_qupath_has_the_tissue(scn, tmp_path):
    tissue = Slide(scn).tissue()
    write_tissue(tmp_path / "a.geojson", tissue)
    content = json.loads((tmp_path / "a.geojson").read_text())
    ring = np.array(content["features"][0]["geometry"]["coordinates"][0])
    assert np.abs(np.concatenate((ring.min(0), ring.max(0))) - SQUARE).max() <= 16  # one pixel of the mask
    assert content["healnet"] == {"origin": list(CORNER)}
    back = read_tissue(tmp_path / "a.geojson", Slide(scn))
    assert np.abs(box(back) - box(tissue)).max() <= 3


def test_mirax_by_arithmetic(tmp_path):
    """3DHISTECH's slides span the glass, 100,000 pixels and more, of which a part near the middle is scanned."""
    stated = {"x": "37219", "y": "91363", "width": "23552", "height": "30720"}
    properties = {f"openslide.bounds-{key}": value for key, value in stated.items()}
    bounds = bounds_from_properties(properties, (97792, 222208))
    mask = np.zeros((217, 191), bool)  # 512 x 1024 pixels each
    mask[100:110, 80:90] = True
    write_tissue(tmp_path / "a.geojson", Tissue(mask, (512.0, 1024.0), 0, 0, mask, bounds=bounds))
    ring = json.loads((tmp_path / "a.geojson").read_text())["features"][0]["geometry"]["coordinates"][0]
    left, top = 80 * 512 - 37219, 100 * 1024 - 91363
    right, bottom = 90 * 512 - 37219, 110 * 1024 - 91363
    assert ring == [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    slide = SimpleNamespace(width=97792, height=222208, mpp=None, bounds=bounds, name="a")
    back = read_tissue(tmp_path / "a.geojson", slide)
    assert np.abs(box(back) - [80 * 512, 100 * 1024, 90 * 512, 110 * 1024]).max() <= 55
    path = to_geojson([[40000, 100000]], 256, [1.0], tmp_path / "s.geojson", slide=slide)
    ring = json.loads(path.read_text())["features"][0]["geometry"]["coordinates"][0]
    assert ring[0] == [40000 - 37219, 100000 - 91363]


def test_level_0_by_the_users_word(scn, tmp_path):
    slide = Slide(scn)
    (tmp_path / "a.geojson").write_text(json.dumps(square(*in_level0(SQUARE).tolist())))
    assert np.abs(box(read_tissue(tmp_path / "a.geojson", slide, "level0")) - in_level0(SQUARE)).max() <= 2
    tissue = slide.tissue()
    write_tissue(tmp_path / "b.geojson", tissue, "level0")
    content = json.loads((tmp_path / "b.geojson").read_text())
    ring = np.array(content["features"][0]["geometry"]["coordinates"][0])
    assert np.abs(np.concatenate((ring.min(0), ring.max(0))) - in_level0(SQUARE)).max() <= 16
    # The file says where it counts from, so that nobody has to.
    assert content["healnet"] == {"origin": [0, 0]}
    assert np.abs(box(read_tissue(tmp_path / "b.geojson", slide)) - box(tissue)).max() <= 3
    text = "expected coordinates that count from level-0 [2000, 1200], got a file that states [0.0, 0.0]"
    with pytest.raises(ValueError, match=f"^{re.escape(f'{tmp_path}/b.geojson: {text}')}$"):
        read_tissue(tmp_path / "b.geojson", slide, "bounds")


@pytest.mark.parametrize(
    ("place", "hint"),
    [
        (
            (900, 100, 1200, 400),
            '; pass origin="level0" if it counts from the corner of level 0',
        ),  # sticks out
        ((2300, 1400, 2700, 1800), '; pass origin="level0" if it counts from the corner of level 0'),
        ((-800, -500, -1, -1), '; pass origin="level0" if it counts from the corner of level 0'),
    ],
)
def test_outlines_off_the_bounds_are_asked_about(scn, tmp_path, place, hint):
    (tmp_path / "a.geojson").write_text(json.dumps(square(*place)))
    corners = [[float(n) for n in place[:2]], [float(n) for n in place[2:]]]
    text = (
        f"{tmp_path}/a.geojson: expected polygons within 1024 x 768 pixels from level-0 [2000, 1200], "
        f"got one from {corners[0]} to {corners[1]}{hint}"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        read_tissue(tmp_path / "a.geojson", Slide(scn))


def test_a_hand_that_draws_across_the_edge_is_not_asked(scn, tmp_path):
    (tmp_path / "a.geojson").write_text(json.dumps(square(-9, -9, 1030, 300)))
    drawn = box(read_tissue(tmp_path / "a.geojson", Slide(scn)))
    assert np.abs(drawn - in_level0((-9, -9, 1030, 300))).max() <= 2
    (tmp_path / "a.geojson").write_text(json.dumps(square(-300, 0, 1030, 300)))
    assert read_tissue(tmp_path / "a.geojson", Slide(scn), "bounds").mask.any()


def test_outlines_wholly_off_a_slide_without_bounds_are_refused(slide_writer, tmp_path):
    slide = Slide(slide_writer(tmp_path / "a.tif", (600, 500), levels=(1,)))
    (tmp_path / "a.geojson").write_text(json.dumps(square(700, 0, 900, 100)))
    with pytest.raises(
        ValueError, match=r"within 600 x 500 pixels from level-0 \[0, 0\], got one from .*900.0, 100.0\]$"
    ):
        read_tissue(tmp_path / "a.geojson", slide)


def test_outlines_of_a_slide_with_other_bounds_are_refused(scn, tmp_path):
    (tmp_path / "a.geojson").write_text(json.dumps(square(*SQUARE, healnet={"origin": [7, 9]})))
    with pytest.raises(
        ValueError, match=r"from level-0 \[2000, 1200\] or \[0, 0\], got a file that states \[7.0, 9.0\]$"
    ):
        read_tissue(tmp_path / "a.geojson", Slide(scn))
    (tmp_path / "a.geojson").write_text(json.dumps(square(*SQUARE, healnet={"origin": 7})))
    with pytest.raises(ValueError, match=r"expected GeoJSON with polygons in level-0 pixels, got another"):
        read_tissue(tmp_path / "a.geojson", Slide(scn))


def mask_image(path, size, rectangle):
    pixels = np.zeros((size[1], size[0]), np.uint8)
    left, top, right, bottom = rectangle
    pixels[top:bottom, left:right] = 255
    Image.fromarray(pixels).save(path)


def test_an_image_of_the_bounds_or_of_the_whole_by_its_proportions(scn, tmp_path):
    slide = Slide(scn)  # 5:4, and its bounds 4:3
    mask_image(tmp_path / "bounds.png", (256, 192), (75, 50, 175, 150))
    tissue = read_tissue(tmp_path / "bounds.png", slide)
    assert tissue.mask.shape == (1000, 1250)
    assert np.abs(box(tissue) - in_level0(SQUARE)).max() <= 2
    mask_image(tmp_path / "whole.png", (250, 200), (115, 70, 135, 90))
    assert box(read_tissue(tmp_path / "whole.png", slide)).tolist() == [2300, 1400, 2700, 1800]
    text = f"{tmp_path}/whole.png: expected an image of its bounds of 1024 x 768 pixels, got 250 x 200"
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        read_tissue(tmp_path / "whole.png", slide, "bounds")


def test_an_image_that_could_be_of_either_is_asked_about(tmp_path):
    slide = SimpleNamespace(width=4000, height=3000, mpp=None, bounds=(1000, 500, 800, 600), name="a")
    mask_image(tmp_path / "a.png", (40, 30), (10, 10, 20, 20))
    text = (
        f'{tmp_path}/a.png: expected origin="level0" for an image of the whole slide or origin="bounds" for one of its '
        "bounds, whose proportions are alike"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        read_tissue(tmp_path / "a.png", slide)
    assert box(read_tissue(tmp_path / "a.png", slide, "level0")).tolist() == [1000, 1000, 2000, 2000]
    assert box(read_tissue(tmp_path / "a.png", slide, "bounds")).tolist() == [1200, 700, 1400, 900]


def encoder(tiles):
    return tiles.mean(dim=(2, 3))


def test_extraction_and_back_through_qupath(scn, tmp_path):
    options = {"size": 128, "mpp": 0.5, "num_workers": 0, "progress": False}
    (found,) = extract_features([scn], encoder, tmp_path / "found", **options)
    assert found.error == ""
    outlines = json.loads((tmp_path / "found" / "tissue" / "a.geojson").read_text())
    del outlines["healnet"]  # as QuPath saves it
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "a.geojson").write_text(json.dumps(outlines))
    edited = tmp_path / "edited"
    extract_features([scn], encoder, edited, masks=tmp_path / "masks", **options)
    first, second = (read_patches(folder / "a.h5") for folder in (tmp_path / "found", edited))
    assert first.bounds == second.bounds == (*CORNER, *SIZE)
    extract_features([scn], encoder, tmp_path / "clam", layout="clam", **options)
    for name in ("h5_files/a.h5", "pt_files/a.pt"):
        assert read_patches(tmp_path / "clam" / name).bounds == (*CORNER, *SIZE)
    assert torch.equal(first.load()[1], second.load()[1])
    assert torch.equal(first.load()[0], second.load()[0])
    # By the user's word: outlines of level 0 are written and read as such.
    for shift, origin in ((0, "bounds"), (1, "level0")):
        moved = [
            {
                **feature,
                "geometry": {
                    "type": "Polygon",
                    "coordinates": [
                        (np.array(ring) + shift * np.array(CORNER)).tolist()
                        for ring in feature["geometry"]["coordinates"]
                    ],
                },
            }
            for feature in outlines["features"]
        ]
        (tmp_path / "masks" / "a.geojson").write_text(json.dumps(moved))
        output = tmp_path / origin
        extract_features([scn], encoder, output, masks=tmp_path / "masks", outline_origin=origin, **options)
        assert torch.equal(read_patches(output / "a.h5").load()[1], first.load()[1])
        written = json.loads((output / "tissue" / "a.geojson").read_text())
        assert written["healnet"] == {"origin": [0, 0] if origin == "level0" else list(CORNER)}


def test_patches_go_to_qupath_by_the_slide_or_by_its_file(scn, tmp_path):
    coords, scores = [[2300, 1400], [2428, 1400]], [1.0, 2.0]
    extract_features([scn], encoder, tmp_path, size=128, mpp=0.5, num_workers=0, progress=False)
    texts = []
    for slide in (Slide(scn), read_patches(tmp_path / "a.h5")):
        path = to_geojson(coords, 128, scores, tmp_path / "s.geojson", slide=slide, level0_size=(5000, 4000))
        texts.append(path.read_text())
    features = json.loads(texts[0])["features"]
    assert [feature["geometry"]["coordinates"][0][0] for feature in features] == [[300, 200], [428, 200]]
    assert texts[0] == texts[1]
    path = to_geojson(coords, 128, scores, tmp_path / "s.geojson", slide=Slide(scn), origin="level0")
    assert json.loads(path.read_text())["features"][0]["geometry"]["coordinates"][0][0] == [2300, 1400]
    path = regions_to_geojson(coords, 128, scores, tmp_path / "r.geojson", threshold=0, slide=Slide(scn))
    (region,) = json.loads(path.read_text())["features"]
    ring = np.array(region["geometry"]["coordinates"][0])
    assert (ring.min(0).tolist(), ring.max(0).tolist()) == ([300, 200], [556, 328])


def test_a_file_with_damaged_bounds_is_refused(scn, tmp_path):
    import h5py

    extract_features([scn], encoder, tmp_path, size=128, mpp=0.5, num_workers=0, progress=False)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["coords"].attrs["level0_bounds"] = [1.0, 2.0, float("nan")]
    with pytest.raises(
        ValueError, match=r"expected `level0_bounds` as left, top, width and height, got \[1.0, 2.0, nan\]$"
    ):
        read_patches(tmp_path / "a.h5")
