"""The quick run on the slide that the script makes: what it writes, and that the planted tiles are found."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from healnet.slides import Slide, read_patches

EXAMPLE = Path(__file__).parents[2] / "examples" / "whole_slide.py"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    output = tmp_path_factory.mktemp("whole_slide")
    done = subprocess.run(
        [sys.executable, EXAMPLE, "--quick", "--output", output],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return output, done.stdout


def test_it_writes_everything_it_says(finished):
    output, text = finished
    assert {path.name for path in output.iterdir()} == {
        "features",
        "heatmap.png",
        "made_2048.geojson",
        "made_2048.tiff",
        "report_made_2048.html",
        "tissue.png",
        "top_patches.png",
        "faithfulness.png",
    }
    assert f"made_2048.geojson for QuPath and report_made_2048.html are in {output}" in text


def test_the_model_learns_and_every_score_finds_the_planted_tiles(finished):
    _, text = finished
    assert float(re.search(r"new simulated patients: ([\d.]+)", text).group(1)) > 0.7
    found = re.findall(r"AUROC ([\d.]+) .* faithfulness ([+-][\d.]+)", text)
    assert len(found) == 4
    for auroc, faithfulness in found:
        assert float(auroc) > 0.95
        assert float(faithfulness) > 0.3


def test_tiles_features_and_qupath_file_agree(finished):
    output, _ = finished
    slide, file = Slide(output / "made_2048.tiff"), read_patches(output / "features" / "made_2048.h5")
    assert (slide.mpp, file.footprint) == (0.5, 128)  # 64 pixels at 1 micron
    features, coords = file.load()
    tiles = json.loads((output / "made_2048.geojson").read_text())["features"]
    assert [tile["geometry"]["coordinates"][0][0] for tile in tiles] == coords.long().tolist()
    # The tile scored highest is one of the dark ones.
    percentile = [
        tile["properties"]["measurements"]["gradient-weighted attention percentile"] for tile in tiles
    ]
    best = percentile.index(max(percentile))
    assert features[best, :3].mean() < features[:, :3].mean(dim=1).quantile(0.06)


def test_a_slide_that_does_not_say_its_scale_asks_the_user_of_the_script(tmp_path):
    tifffile.imwrite(tmp_path / "s.tiff", np.zeros((64, 64, 3), np.uint8), tile=(64, 64), photometric="rgb")
    done = subprocess.run(
        [sys.executable, EXAMPLE, "--slide", tmp_path / "s.tiff", "--output", tmp_path / "new"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2
    assert "s.tiff does not say its microns per pixel: say it yourself, such as --mpp 0.25" in done.stderr
