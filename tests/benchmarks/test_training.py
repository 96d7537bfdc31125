"""One training step in other ways: checkpointed, half precision, compiled: `pytest tests/benchmarks/test_training.py`.

And the throughput of two processes against one. Each ratio is to the plain step of the same run.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from healnet import HEALNet, PatchBag
from healnet.encoders import PatchEncoder

TITLE = "| training step, bag of 4,000 x 1,024, 128 latents, 4 layers | s | against plain | extra GiB |\n|---|---|---|---|"
SCALED = "| processes | patients per s | against one |\n|---|---|---|"
EXAMPLE = Path(__file__).parents[2] / "examples" / "train_ddp.py"
WAYS = {
    "plain": {},
    "checkpoint_layers=True": {"checkpoint_layers": True},
    "bfloat16": {"dtype": torch.bfloat16},
    "float16 and a gradient scaler": {"dtype": torch.float16},
    "torch.compile": {"compiled": True},
}


@pytest.fixture(scope="module")
def plain_seconds():
    return {}


@pytest.mark.filterwarnings("ignore")  # torch.compile warns of what it cannot fuse
@pytest.mark.parametrize("name", WAYS)
def test_a_training_step(name, plain_seconds, report, peak_memory, median_seconds):
    way = WAYS[name]
    if "compiled" in way and shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    torch.manual_seed(0)
    model = HEALNet(
        {"slide": PatchEncoder(1024)},
        depth=4,
        num_latents=128,
        num_heads=8,
        head_dim=64,
        checkpoint_layers=way.get("checkpoint_layers", False),
    )
    coords, mask = torch.randint(0, 99_999, (1, 4_000, 2)), torch.ones(1, 4_000, dtype=torch.bool)
    inputs = {"slide": PatchBag(torch.randn(1, 4_000, 1024), coords, mask)}
    run = torch.compile(model) if "compiled" in way else model
    dtype = way.get("dtype", torch.float32)
    scaler = torch.amp.GradScaler("cpu", enabled=dtype == torch.float16)

    def step():
        model.zero_grad()
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            loss = run(inputs).float().square().sum()
        scaler.scale(loss).backward()

    step()
    memory, seconds = peak_memory(step), median_seconds(step)
    plain_seconds.setdefault("plain", seconds)
    ratio = seconds / plain_seconds["plain"]
    report(TITLE, f"| {name} | {seconds:.2f} | {ratio:.2f} | {(memory or 0) / 2**30:.2f} |")


def test_two_processes(tmp_path, report):
    """Steps of `examples/train_ddp.py`, of 40 small patients: what is measured is mostly the price of talking."""
    speeds = {}
    for processes in (1, 2):
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        command = [sys.executable, *(torchrun if processes > 1 else []), str(EXAMPLE)]
        arguments = ["--epochs", "20", "--batch-size", "40", "--checkpoint-every", "1000"]
        said = subprocess.run(
            [*command, *arguments, "--output", str(tmp_path / str(processes))],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            check=True,
            capture_output=True,
            text=True,
        )
        speeds[processes] = 40 * float(re.findall(r"([\d.]+)step/s", said.stderr)[-1])
        report(SCALED, f"| {processes} | {speeds[processes]:.0f} | {speeds[processes] / speeds[1]:.2f} |")
