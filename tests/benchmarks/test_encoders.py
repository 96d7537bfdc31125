"""Encoders at the sizes of real data, each in a process of its own: `pytest tests/benchmarks/test_encoders.py`.

Memory is the peak of the whole process, torch included, and is held to 2 GiB. Seconds are reported, not gated: other
processes share the machine; processor seconds beside them do not see those.
"""

import json
import subprocess
import sys

import pytest

TITLE = "| what | seconds | processor seconds | peak of the process, GiB |\n|---|---|---|---|"

START = """
import json, resource, time
import torch
torch.manual_seed(0)
"""
END = """
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "peak": peak}))
"""
CLOCK = "wall, cpu = time.perf_counter(), time.process_time()\n"

TRAIN = (
    START
    + """
from healnet import HEALNet
from healnet.encoders import GridEncoder
from healnet.survival import cox_nll
model = HEALNet({{"grid": GridEncoder(channels={channels}, ndim={ndim})}})
optimizer = torch.optim.AdamW(model.parameters())
grids, time_, event = torch.randn({shape}), torch.rand(4), torch.ones(4).bool()
"""
    + CLOCK
    + """
loss = cox_nll(model({{"grid": grids}}), time_, event)
loss.backward()
optimizer.step()
assert torch.isfinite(loss)
"""
    + END.replace("{", "{{").replace("}", "}}")
)

GRAPH = (
    START
    + """
from healnet.encoders import GraphEncoder
from healnet.inputs import Graph
n = 100_000
if "{kind}" == "random":
    index = torch.randint(0, n, (2, 600_000))
else:
    import numpy as np
    from scipy.spatial import cKDTree
    points = np.random.default_rng(0).random((n, 2))
    neighbors = torch.from_numpy(cKDTree(points).query(points, k=7)[1][:, 1:])
    index = torch.stack((torch.arange(n).repeat_interleave(6), neighbors.flatten()))
graph = Graph.stack([Graph.of(torch.randn(n, 8), index)])
encoder = GraphEncoder(8)
if {cached}:
    encoder(graph)
"""
    + CLOCK
    + """
encoder(graph)
"""
    + END.replace("{", "{{").replace("}", "}}")
)

CASES = {
    "step on 4 images of 512 x 512 x 3": TRAIN.format(channels=3, ndim=2, shape="4, 512, 512, 3"),
    "step on 4 volumes of 64 x 128 x 128 x 1": TRAIN.format(channels=1, ndim=3, shape="4, 64, 128, 128, 1"),
    "positions of 100,000 nodes, 600,000 random edges": GRAPH.format(kind="random", cached=False),
    "positions of 100,000 nodes, 6 nearest neighbors": GRAPH.format(kind="near", cached=False),
    "the same again, from the cache": GRAPH.format(kind="near", cached=True),
}


@pytest.mark.parametrize("what", CASES)
def test_fits(what, report):
    done = subprocess.run([sys.executable, "-c", CASES[what]], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    gib = result["peak"] / 2**30
    report(TITLE, f"| {what} | {result['wall']:.1f} | {result['cpu']:.1f} | {gib:.2f} |")
    assert gib < 2
