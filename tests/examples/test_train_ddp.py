"""`examples/train_ddp.py`: the same result on any number of processes, and after kill -9."""

import importlib.util
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "examples" / "train_ddp.py"
KILLS = 10


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("train_ddp", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def start(processes, output, *arguments):
    """Start the example under torchrun, or without for one process."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(torchrun if processes > 1 else []), str(SCRIPT), "--output", str(output)]
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(processes, output, *arguments):
    process = start(processes, output, *arguments)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said, torch.load(output / "model.pt", weights_only=True)


def assert_same(weights, expected, atol):
    assert list(weights) == list(expected)
    for name, tensor in expected.items():
        # They move every log hazard alike: Cox's loss has no gradient there, and AdamW makes steps of rounding errors.
        if name in ("head.norm.bias", "head.linear.bias"):
            continue
        torch.testing.assert_close(
            weights[name], tensor, rtol=0, atol=atol, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("world", [1, 2, 3])
def test_parts_of_all_processes_are_the_batches_of_one(example, world):
    whole = list(example.SharedBatches(23, 5, seed=7, rank=0, world=1))
    parts = [list(example.SharedBatches(23, 5, seed=7, rank=rank, world=world)) for rank in range(world)]
    assert len(whole) == len(example.SharedBatches(23, 5, 7, 0, 1)) == 4
    assert sorted({patient for batch in whole for patient in batch}) != list(range(20))  # shuffled
    for number, batch in enumerate(whole):
        assert sorted(batch) == sorted(patient for part in parts for patient in part[number])
        assert len(set(batch)) == 5
    sampler = example.SharedBatches(23, 5, seed=7, rank=0, world=1)
    sampler.epoch = 1
    assert list(sampler) != whole


def test_a_batch_smaller_than_the_processes_is_refused(example):
    message = "expected a batch size from 3 (processes) to 23 (patients), got 2"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        example.SharedBatches(23, 2, seed=0, rank=0, world=3)


@pytest.mark.slow
def test_any_number_of_processes_gives_the_same_and_goes_on_from_anothers_checkpoint(tmp_path):
    arguments = ("--epochs", 4, "--dropout", 0, "--checkpoint-every", 5)
    said, weights = finish(1, tmp_path / "one", *arguments)
    predictions = (tmp_path / "one" / "predictions.csv").read_text().splitlines()
    assert (
        len(predictions) == len(set(predictions)) == 20
    )  # 19 patients, whom two processes cannot share evenly
    for processes in (2, 3):
        folder = tmp_path / str(processes)
        more, others = finish(processes, folder, *arguments)
        assert more.splitlines()[-1] == said.splitlines()[-1]  # the same loss, to four digits
        assert_same(others, weights, atol=1e-5)
        rows = (folder / "predictions.csv").read_text().splitlines()
        assert [row.split(",")[0] for row in rows] == [row.split(",")[0] for row in predictions]
    # Three processes wrote steps 10 and 12; two go on from 10.
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["step-00000010", "step-00000012"]
    shutil.rmtree(folder / "checkpoints" / "step-00000012")
    (folder / "checkpoints" / "partial-00000012").mkdir()  # what a killed run leaves
    (folder / "model.pt").unlink()
    _, resumed = finish(2, folder, *arguments)
    assert_same(resumed, weights, atol=1e-5)
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["step-00000010", "step-00000012"]


def children(pid):
    """The processes that a process started, by their parent's number in /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        if int(fields[1]) == pid:
            found.append(int(path.parent.name))
    return found


def kill(pids):
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


@pytest.mark.posix
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the workers in /proc")
def test_killed_at_random_moments_it_ends_with_the_weights_of_an_undisturbed_run(tmp_path):
    """kill -9 of everything, or of one worker alone, while it starts, trains or writes."""
    arguments = ("--epochs", 40, "--checkpoint-every", 3, "--batch-size", 40)
    undisturbed = time.monotonic()
    _, expected = finish(2, tmp_path / "undisturbed", *arguments)
    undisturbed = time.monotonic() - undisturbed
    moments = random.Random(0)
    folder, checkpoints = tmp_path / "killed", tmp_path / "killed" / "checkpoints"
    steps = []
    for number in range(KILLS):
        process = start(2, folder, *arguments)
        time.sleep(moments.uniform(0.3, 1.0) * undisturbed)
        workers = children(process.pid)
        if number % 3 == 2:
            kill(workers[:1])  # torchrun notices, and ends the other
        else:
            kill([*workers, process.pid])
        process.communicate(timeout=120)
        steps.append(max((int(p.name[5:]) for p in checkpoints.glob("step-*")), default=0))
    assert steps == sorted(steps), "a checkpoint was lost"
    assert steps[-1] > 0
    _, weights = finish(2, folder, *arguments)
    assert_same(weights, expected, atol=1e-6)
