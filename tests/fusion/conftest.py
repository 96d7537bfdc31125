import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch


@pytest.fixture
def run():
    """A function that starts a worker's code in one process per rank, waits for all and loads what they saved."""

    def run(worker, world, folder, *arguments):
        """Start one process per rank and wait for all."""
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        here = str(Path(__file__).parent)
        command = [sys.executable, "-c", worker, str(folder)]
        workers = [
            subprocess.Popen([*command, str(rank), str(world), here, *arguments], env=environment)
            for rank in range(world)
        ]
        try:
            assert [process.wait(timeout=300) for process in workers] == [0] * world
        finally:
            for process in workers:
                process.kill()
        return [torch.load(Path(folder) / f"result{rank}.pt") for rank in range(world)]

    return run
