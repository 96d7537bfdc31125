"""Explaining 100,000 patches, from features to QuPath: `pytest tests/benchmarks/test_explain.py`.

Not in the default run. Each row is a process of its own, so that its peak memory is its own; "before" is the peak with torch
imported and the bag and model made. A bag of 1,024 float32 features is 0.39 GiB and the model's tokens are two copies of it.
"""

import subprocess
import sys

import pytest

CODE = """
import resource, sys, time
from pathlib import Path
import numpy as np, torch
from healnet import HEALNet, PatchBag
from healnet.encoders import PatchEncoder
from healnet.explain import attention_scores, plot_slide_heatmap, to_geojson
from healnet._png import png

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

torch.set_num_threads(2)
n, width, method, output = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
columns = int(n**0.5) + 1
index = torch.arange(n)
coords = torch.stack([index % columns, index // columns], dim=-1) * 256
features = torch.empty(1, n, width, dtype=torch.float32).normal_()
model = HEALNet({"slide": PatchEncoder(width)}, output="cox")
side = columns * 256
thumbnail = np.full((1024, 1024, 3), 230, np.uint8)
before = peak()
start, cpu = time.perf_counter(), time.process_time()
with torch.no_grad():
    bag = PatchBag(features, coords[None], torch.ones(1, n, dtype=torch.bool))
    scores = attention_scores(model, {"slide": bag}, method=method)["slide"][0].numpy()
scored = time.perf_counter()
ax = plot_slide_heatmap(thumbnail, coords.numpy(), 256, scores, level0_size=(side, side), mpp=0.5)
(output / "map.png").write_bytes(png(ax.figure))
drawn = time.perf_counter()
path = to_geojson(coords.numpy(), 256, scores, output / "tiles.geojson")
written, cpu = time.perf_counter(), time.process_time() - cpu
print(written - start, cpu, scored - start, drawn - scored, written - drawn, before, peak(), path.stat().st_size / 2**20)
"""


def measure(n, width, method, folder):
    command = [sys.executable, "-c", CODE, str(n), str(width), method, str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return [float(v) for v in result.stdout.split()]


@pytest.mark.parametrize("method", ["mean", "gradient", "rollout"])
@pytest.mark.parametrize("width", [384, 1024])
def test_a_hundred_thousand_patches(tmp_path, report, width, method):
    total, cpu, scored, drawn, written, before, peak, size = measure(100_000, width, method, tmp_path)
    parts = f"scores {scored:.1f}, map {drawn:.1f}, GeoJSON {written:.1f} of {size:.0f} MiB"
    report(
        "100,000 patches: scores, map, GeoJSON",
        f"{width:>5} wide, {method:>8}: {total:5.1f} s ({parts}), of processor time {cpu:.1f} s; "
        f"peak {peak:.2f} GiB, before {before:.2f}, added {peak - before:.2f}",
    )
    # On a busy machine the clock says how busy it is; with the machine to itself no more than its processor time passes.
    assert min(total, cpu) < 20
    assert peak < (1 if width == 384 else 2)
