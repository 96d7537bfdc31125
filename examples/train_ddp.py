"""Train on many processes: every process a part of each batch, Cox's loss exact over all, checkpoints that survive kill -9.

    torchrun --nproc-per-node 2 examples/train_ddp.py --output results/ddp                     # two processes here
    torchrun --nnodes 4 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 examples/train_ddp.py ...
    python examples/train_ddp.py --output results/ddp                                          # one process, the same result

Start the same command again after a crash, on as many processes as you like: it goes on from the last checkpoint. All of it
is PyTorch's own (DistributedDataParallel with `find_unused_parameters=False`, `torch.distributed.checkpoint`); what HEALNet
adds is that a process whose patients all lack a modality still has a gradient for it.
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, Sampler
from tqdm import tqdm

from healnet import HEALNet
from healnet.data import Cohort, CohortDataset, ModalityDropout, Standardizer, collate
from healnet.datasets import load_mini_acc
from healnet.encoders import OmicEncoder
from healnet.inputs import move
from healnet.survival import concordance, distributed_cox_nll


class SharedBatches(Sampler[list[int]]):
    """The part that one process has of batches that are the same for any number of processes.

    `DistributedSampler` repeats patients to give every process equally many, which Cox's risk sets would count twice. Here a
    batch is divided as it is; parts may differ in size by one.
    """

    def __init__(self, patients: int, batch_size: int, seed: int, rank: int, world: int) -> None:
        if not world <= batch_size <= patients:
            raise ValueError(
                f"expected a batch size from {world} (processes) to {patients} (patients), got {batch_size}"
            )
        self.patients, self.batch_size, self.seed = patients, batch_size, seed
        self.rank, self.world, self.epoch = rank, world, 0

    def __len__(self) -> int:
        return self.patients // self.batch_size  # the rest of an epoch is left out

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(
            self.patients, generator=torch.Generator().manual_seed(self.seed + self.epoch)
        ).tolist()
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            yield order[start : start + self.batch_size][self.rank :: self.world]


def build(cohort: Cohort, dropout: float) -> HEALNet:
    """The model of `examples/mini_acc.py`: four learned tokens per table."""
    encoders = {
        name: OmicEncoder(width, tokens=4, input_dropout=dropout) for name, width in cohort.widths.items()
    }
    return HEALNet(
        encoders, num_latents=8, latent_dim=32, num_heads=1, self_attention=0, ff_mult=1, output="cox"
    )


def save(folder: Path, model: DistributedDataParallel, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write a checkpoint beside the others, rename it when every process has written its part, and keep the last two."""
    weights, state = get_state_dict(model, optimizer)
    partial = folder / f"partial-{step:08d}"
    if dist.get_rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)
    dist.barrier()
    dcp.save({"model": weights, "optimizer": state}, checkpoint_id=partial)
    dist.barrier()
    if dist.get_rank() == 0:
        shutil.rmtree(folder / f"step-{step:08d}", ignore_errors=True)
        partial.rename(folder / f"step-{step:08d}")
        for old in sorted(folder.glob("step-*"))[:-2]:
            shutil.rmtree(old)
    dist.barrier()


def resume(folder: Path, model: DistributedDataParallel, optimizer: torch.optim.Optimizer) -> int:
    """Load the last checkpoint, written by any number of processes; the number of steps it has seen, or 0."""
    if dist.get_rank() == 0:
        for partial in folder.glob("partial-*"):  # of a run that was killed while it wrote
            shutil.rmtree(partial)
    found = sorted(folder.glob("step-*"))
    if not found:
        return 0
    weights, state = get_state_dict(model, optimizer)
    loaded = {"model": weights, "optimizer": state}
    dcp.load(loaded, checkpoint_id=found[-1])
    set_state_dict(model, optimizer, model_state_dict=loaded["model"], optim_state_dict=loaded["optimizer"])
    return int(found[-1].name.removeprefix("step-"))


def train(
    cohort: Cohort, options: argparse.Namespace, device: torch.device
) -> tuple[DistributedDataParallel, float]:
    """Every process runs this; the model that comes back, and the last loss, are the same on all."""
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(options.seed)
    model = DistributedDataParallel(build(cohort, options.dropout).to(device), find_unused_parameters=False)
    hide = ModalityDropout(options.dropout)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, weight_decay=0.3)
    data = CohortDataset(cohort)
    sampler = SharedBatches(len(cohort), options.batch_size, options.seed, rank, world)
    loader = DataLoader(data, batch_sampler=sampler, collate_fn=collate)
    total = options.epochs * len(sampler)
    checkpoints = options.output / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    dist.barrier()
    done = resume(checkpoints, model, optimizer)
    loss = torch.tensor(torch.nan)  # if nothing is left to do
    bar = tqdm(total=total, initial=done, disable=rank != 0, desc=f"{world} processes", unit="step")
    for epoch in range(done // len(sampler), options.epochs):
        sampler.epoch = epoch
        for number, batch in enumerate(loader):
            step = epoch * len(sampler) + number
            if step < done:  # a checkpoint in the middle of an epoch
                continue
            # Dropout depends on the step, not on how often the run was interrupted.
            torch.manual_seed(options.seed + 1 + step * world + rank)
            optimizer.param_groups[0]["lr"] = (
                options.learning_rate * (1 + math.cos(math.pi * step / total)) / 2
            )
            batch = move(batch, device)
            loss = distributed_cox_nll(model(hide(batch.inputs)), batch.time, batch.event)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            bar.update()
            if (step + 1) % options.checkpoint_every == 0 or step + 1 == total:
                save(checkpoints, model, optimizer, step + 1)
                bar.set_postfix(loss=f"{loss.item():.3f}")
    bar.close()
    return model.eval(), loss.item()


@torch.no_grad()
def predict(model: DistributedDataParallel, cohort: Cohort, device: torch.device) -> dict[str, float]:
    """Log hazard by patient, of all patients on every process.

    `DistributedSampler` gives each process equally many and repeats some to do so; by patient each counts once.
    """
    sampler: DistributedSampler[CohortDataset] = DistributedSampler(CohortDataset(cohort), shuffle=False)
    loader = DataLoader(CohortDataset(cohort), 64, sampler=sampler, collate_fn=collate)
    own: dict[str, float] = {}
    for batch in loader:
        risks = model.module(move(batch.inputs, device)).squeeze(1).tolist()
        own |= dict(zip(batch.patients, risks, strict=True))
    parts: list[dict[str, float]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(parts, own)
    everyone = {patient: risk for part in parts for patient, risk in part.items()}
    return {patient: everyone[patient] for patient in cohort.patients}


def run(options: argparse.Namespace, device: torch.device) -> None:
    """Train, predict the test fold, and write both."""
    cohort = load_mini_acc()
    rows, test = next(iter(cohort.folds(5, seed=0)))
    scaler = Standardizer().fit(cohort[rows])
    model, loss = train(scaler.transform(cohort[rows]), options, device)
    unseen = scaler.transform(cohort[test])
    risks = predict(model, unseen, device)
    if dist.get_rank() == 0:
        partial = options.output / "model.partial"
        torch.save(model.module.state_dict(), partial)
        partial.replace(options.output / "model.pt")
        lines = ["patient,log_hazard", *(f"{patient},{risk:.6f}" for patient, risk in risks.items())]
        (options.output / "predictions.csv").write_text("\n".join(lines) + "\n")
        score = concordance(list(risks.values()), unseen.target)
        print(f"Harrell's C on {len(risks)} test patients {score:.3f}, last loss {loss:.4f}")
    dist.barrier()  # a process that ended earlier would be a failure to torchrun


def main() -> None:
    """Read the arguments, and run between the start and the end of the process group."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("results/ddp"))
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument(
        "--batch-size", type=int, default=24, help="patients per step, of all processes together"
    )
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--dropout", type=float, default=0.3, help="of features and of modalities")
    parser.add_argument("--checkpoint-every", type=int, default=10, help="steps")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
    for name, alone in {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",
    }.items():
        os.environ.setdefault(name, alone)  # without torchrun
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=timedelta(minutes=5))
    run(options, device)
    # Python aborts if a thread of gloo still holds a tensor while it ends. The threads end with their process group, and
    # the group ends when no model refers to it (github.com/pytorch/pytorch/issues/190489).
    dist.destroy_process_group()
    gc.collect()


if __name__ == "__main__":
    main()
