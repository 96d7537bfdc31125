"""What checksums cost in feature files: `pytest tests/benchmarks/test_feature_files.py` prints seconds and bytes.

A slide of 15,000 patches by 1,024 features, in chunks as `extract_features` writes them, held by the page cache: what is
measured is unpacking and checking, not a disk. Nothing gates on seconds.
"""

import random
import time

import h5py
import numpy as np

from healnet.slides import read_patches
from healnet.slides.features.feature_writer import CHUNK_BYTES, VERSION

ROWS, DIM = 15_000, 1024
ROUNDS = 15
TITLE = "| checksums | MB | read whole, CPU s | 4,096 patches drawn, CPU s |\n|---|---|---|---|"


def test_reading_with_and_without_checksums(tmp_path, report):
    values = np.random.default_rng(0).standard_normal((ROWS, DIM), dtype=np.float32)
    side = int(np.ceil(np.sqrt(ROWS)))
    files = {}
    for name in ("none", "fletcher32"):
        path = tmp_path / f"{name}.h5"
        with h5py.File(path, "w", libver=VERSION) as file:
            chunks = (CHUNK_BYTES // (4 * DIM), DIM)
            file.create_dataset("features", data=values, chunks=chunks, fletcher32=name == "fletcher32")
            file["coords"] = np.stack(np.divmod(np.arange(ROWS), side), axis=1) * 512
            file["coords"].attrs["patch_size_level0"] = 512
        files[name] = read_patches(path)
    drawn = np.sort(random.Random(0).sample(range(ROWS), 4096))
    seconds = {}
    for _ in range(ROUNDS):  # one after the other, so that what else the machine does meets both
        for name, file in files.items():
            for rows in (None, drawn):
                start = time.process_time()
                features, _ = file.load(rows)
                seconds.setdefault((name, rows is None), []).append(time.process_time() - start)
            np.testing.assert_array_equal(features[0], values[drawn[0]])
    for name in files:
        whole, some = (np.median(seconds[name, everything]) for everything in (True, False))
        megabytes = (tmp_path / f"{name}.h5").stat().st_size / 1e6
        report(TITLE, f"| {name} | {megabytes:.2f} | {whole:.3f} | {some:.3f} |")
