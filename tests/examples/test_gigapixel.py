import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import openslide
import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "gigapixel.py"


@pytest.mark.slow
def test_every_pixel_is_read_and_the_nodules_stand_out(tmp_path):
    command = [sys.executable, str(EXAMPLE), "--side", "1500", "--output", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "2.2 megapixels" in result.stdout
    with h5py.File(tmp_path / "attention.h5") as file:
        attention = file["attention"][:]
    assert attention.shape == (1500, 1500)
    assert attention.mean() == pytest.approx(1, abs=1e-3)
    with openslide.OpenSlide(tmp_path / "made_1500.tif") as slide:
        pixels = np.asarray(slide.read_region((0, 0), 0, (1500, 1500)).convert("RGB"))
    dark = pixels[..., 1] < 100
    assert 0.001 < dark.mean() < 0.1
    assert attention[dark].mean() > 2 * attention[~dark].mean()
    with openslide.OpenSlide(tmp_path / "attention.tif") as slide:
        assert slide.level_dimensions == ((1500, 1500), (750, 750))
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.25)
