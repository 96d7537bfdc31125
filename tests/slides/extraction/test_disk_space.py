"""What a slide's files need is counted, and a disk with one byte less is refused."""

import errno
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from healnet.slides import extract_features
from healnet.slides.extraction._disk_space import bytes_needed, full_disk_error, refuse_full_disk
from healnet.slides.features.feature_writer import FeatureFolder
from healnet.slides.tile_encoder import FeatureKind


def folder(path, dim, dtype, layout):
    kind = FeatureKind(dim, np.dtype(dtype), np.zeros((1, dim)))
    return FeatureFolder(path, "mean", None, kind, layout)


def test_bytes_of_features_coordinates_and_overhead(tmp_path):
    single, double = folder(tmp_path, 7, "float16", "trident"), folder(tmp_path, 5, "float32", "clam")
    assert bytes_needed([single], 3) == 3 * (7 * 2 + 16) + 65536
    assert bytes_needed([single, double], 3) == 3 * (7 * 2 + 16 + 2 * 5 * 4 + 16) + 65536


def test_the_files_that_are_written_fit_into_what_was_counted(slide_writer, tmp_path):
    path = slide_writer(tmp_path / "a.tif", (600, 500), [(0, 0, 600, 500, (150, 80, 160))], levels=(1,))

    def encoder(tiles):
        return torch.rand(len(tiles), 1, generator=torch.Generator().manual_seed(0)).expand(-1, 512)

    (result,) = extract_features(
        [path], encoder, tmp_path, size=64, tissue_fraction=0.5, num_workers=0, progress=False
    )
    needed = bytes_needed([folder(tmp_path, 512, "float32", "trident")], result.tiles)
    assert needed - 65536 < (tmp_path / "a.h5").stat().st_size <= needed


def test_a_byte_less_than_needed_is_refused(tmp_path, monkeypatch):
    free = {tmp_path: 2_500_000}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free[path]))
    refuse_full_disk(tmp_path, tmp_path / "a.h5", 2_500_000)
    with pytest.raises(
        OSError, match=r"no space on the disk: the files of this slide need 2\.5 MB"
    ) as caught:
        refuse_full_disk(tmp_path, tmp_path / "a.h5", 2_500_001)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, f"{tmp_path}/a.h5")


def test_the_error_keeps_the_number_that_the_system_gave(tmp_path):
    error = full_disk_error(tmp_path / "a.h5", 12_340_000, errno.EDQUOT)
    assert str(error) == (
        f"[Errno {errno.EDQUOT}] no space on the disk: the files of this slide need 12.3 MB: '{tmp_path}/a.h5'"
    )
