"""Two gloo processes, each with its own patients, against one process with all of them."""

import os
import subprocess
import sys

import pytest
import torch

from healnet.survival import cox_nll, distributed_cox_nll

# What each process runs: the loss and its gradient, through DistributedDataParallel (which averages) and by hand.
WORKER = """
import os, sys, torch, torch.distributed as dist
from healnet.survival import distributed_cox_nll
folder, rank = sys.argv[1], int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
cases, results = torch.load(f"{folder}/cases.pt"), []
for case in cases:
    rows = case["rows"][rank]
    mine = {name: case[name][rows] for name in ("time", "event", "strata", "weights") if name in case}
    model = torch.nn.Linear(3, 1, dtype=case["x"].dtype)
    with torch.no_grad():
        model.weight.copy_(case["weight"])
    wrapped = torch.nn.parallel.DistributedDataParallel(model)
    loss = distributed_cox_nll(wrapped(case["x"][rows]), **mine, ties=case["ties"], reduction=case["reduction"])
    loss.backward()
    averaged = model.weight.grad.clone()
    model.zero_grad()
    summed = distributed_cox_nll(
        model(case["x"][rows]), **mine, ties=case["ties"], reduction=case["reduction"], averaged=False
    )
    summed.backward()
    dist.all_reduce(model.weight.grad)
    results.append((loss.item(), loss.dtype, averaged, model.weight.grad.clone()))
torch.save(results, f"{folder}/result{rank}.pt")
dist.destroy_process_group()
os._exit(0)  # Python aborts if a thread of gloo still holds a tensor while it ends
"""


def cases():
    generator = torch.Generator().manual_seed(11)
    for sizes, ties, reduction, extras, dtype in (
        ((6, 5), "efron", "mean", False, torch.float64),
        ((2, 9), "breslow", "sum", True, torch.float64),
        ((0, 11), "efron", "mean", True, torch.float64),
        ((4, 7), "efron", "mean", False, torch.float32),
    ):
        case = {
            "x": torch.randn(11, 3, generator=generator, dtype=dtype),
            "weight": torch.randn(1, 3, generator=generator, dtype=dtype),
            "time": torch.randint(1, 6, (11,), generator=generator).double() + 1e-9,
            "event": torch.rand(11, generator=generator) < 0.7,
            "rows": torch.randperm(11, generator=generator).split(sizes),
            "ties": ties,
            "reduction": reduction,
        }
        if extras:
            case["strata"] = torch.randint(0, 2, (11,), generator=generator)
            case["weights"] = torch.rand(11, generator=generator) + 0.1
        yield case
    # nobody had an event: zero, and no process is left waiting
    yield case | {"event": torch.zeros(11, dtype=torch.bool)}


@pytest.mark.filterwarnings("ignore:Cox's loss of this batch is constant")  # one case has no event
@pytest.mark.slow
def test_two_processes_give_the_loss_and_gradient_of_one(tmp_path):
    torch.save(list(cases()), tmp_path / "cases.pt")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path), str(rank)], env=environment)
        for rank in (0, 1)
    ]
    try:
        assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
    for rank in (0, 1):
        results = torch.load(tmp_path / f"result{rank}.pt")
        for case, (value, dtype, averaged, summed) in zip(cases(), results, strict=True):
            weight = case["weight"].clone().requires_grad_()
            eta = (case["x"] @ weight.T).squeeze(1)
            options = {
                name: case[name] for name in ("strata", "weights", "ties", "reduction") if name in case
            }
            whole = cox_nll(eta, case["time"], case["event"], **options)
            whole.backward()
            tolerance = 1e-6 if case["x"].dtype == torch.float32 else 1e-12
            assert dtype == case["x"].dtype
            assert value == pytest.approx(whole.item(), abs=tolerance)
            torch.testing.assert_close(averaged, weight.grad, atol=tolerance, rtol=0)
            torch.testing.assert_close(summed, weight.grad, atol=tolerance, rtol=0)


def test_a_reduction_per_patient_is_refused():
    with pytest.raises(ValueError, match=r"^expected reduction 'mean' or 'sum', got 'none'$"):
        distributed_cox_nll(torch.zeros(1), [1.0], [True], reduction="none")
