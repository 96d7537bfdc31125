"""Microns per pixel from whatever a file says, and never from a guess."""

import pytest

from healnet.slides.slide_scale import magnification_of, mpp_from_properties, objective_power


@pytest.mark.parametrize(
    ("properties", "mpp"),
    [
        ({"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.252", "aperio.MPP": "0.5"}, 0.251),
        ({"openslide.mpp-x": "0.25"}, 0.25),
        ({"aperio.MPP": "0.4990"}, 0.499),
        ({"aperio.MPP": "0,4990"}, 0.499),
        ({"aperio.MPP": "unknown", "hamamatsu.XResolution": "0.2274"}, 0.2274),
        (
            {
                "hamamatsu.XResolution": "43976",
                "tiff.XResolution": "20000",
                "tiff.ResolutionUnit": "centimeter",
            },
            0.5,
        ),
        ({"tiff.XResolution": "50800", "tiff.YResolution": "50000", "tiff.ResolutionUnit": "inch"}, 0.504),
        ({"openslide.mpp-x": "352.77", "openslide.mpp-y": "352.77"}, None),  # 72 dpi
        ({"tiff.XResolution": "96", "tiff.ResolutionUnit": "inch"}, None),
        ({"tiff.XResolution": "20000"}, None),  # in no unit
        ({"tiff.XResolution": "0", "tiff.ResolutionUnit": "inch"}, None),
        ({"aperio.MPP": "nan"}, None),
        ({"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.5"}, None),  # pixels that are not square
        ({"openslide.objective-power": "40"}, None),
        ({}, None),
    ],
)
def test_mpp_by_the_fallback_chain(properties, mpp):
    assert mpp_from_properties(properties) == (None if mpp is None else pytest.approx(mpp))


def test_magnification_is_what_scanners_call_it():
    assert [magnification_of(mpp) for mpp in (0.125, 0.25, 0.2521, 0.499, 1.0, 2.01)] == [
        80.0,
        40.0,
        40.0,
        20.0,
        10.0,
        5.0,
    ]
    assert magnification_of(0.7) == pytest.approx(10 / 0.7)


def test_the_power_of_the_objective_is_what_the_file_states():
    assert objective_power({"openslide.objective-power": "40"}) == 40.0
    assert objective_power({"openslide.objective-power": "0"}) is None
    assert objective_power({}) is None
