"""DistributedDataParallel and FSDP over gloo processes with uneven absence, against one process with the joined batch."""

import itertools
from typing import NamedTuple

import pytest
import torch
from torch import nn

from healnet import HEALNet
from healnet.encoders import LearnedEncoder, OmicEncoder
from healnet.fusion import MeanHead
from healnet.inputs import hide, take

WORKER = """
import os, sys, torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
sys.path.insert(0, sys.argv[4])
from test_distributed import build, cases, part
folder, rank, world, kind = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[5]
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
results = []
for name, case in cases(world).items():
    model = build(case["sizes"])
    if kind == "ddp":
        wrapped = DistributedDataParallel(model, find_unused_parameters=False)
    else:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard
        mesh = init_device_mesh("cpu", (world,))
        for layer in set(model.layers):
            fully_shard(layer, mesh=mesh)
        wrapped = fully_shard(model, mesh=mesh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for step in range(2):  # the second finds what the first left behind
        output = wrapped(part(case, rank))
        loss = output.square().sum() * world / case["patients"]  # averaged over processes: the mean over patients
        loss.backward()
        losses.append(loss.detach())
        if step == 0:
            gradients = {n: p.grad for n, p in model.named_parameters()}
            full = lambda g: g.full_tensor() if hasattr(g, "full_tensor") else g.clone()
            gradients = {n: full(g) for n, g in gradients.items()}
        optimizer.step()
        optimizer.zero_grad()
    losses = torch.stack(losses)
    dist.all_reduce(losses)
    results.append((gradients, losses / world))
torch.save(results, f"{folder}/result{rank}.pt")
dist.destroy_process_group()
os._exit(0)  # Python aborts if a thread of gloo still holds a tensor while it ends
"""

HEADS_WORKER = """
import os, sys, torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
sys.path.insert(0, sys.argv[4])
from test_distributed import HEADS, OPTIONS, build, cases, part, sum_of_squares
folder, rank, world = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
case = cases(world)["uneven"]
results = {}
for kind in HEADS:
    for options in OPTIONS:
        model = DistributedDataParallel(build(case["sizes"] | {"head": HEADS[kind]()}), **OPTIONS[options])
        for _ in range(2):
            model.zero_grad()
            output = model(part(case, rank))
            (sum_of_squares(output) * world / case["patients"]).backward()
        results[kind, options] = type(output).__name__, {n: p.grad for n, p in model.module.named_parameters()}
torch.save(results, f"{folder}/result{rank}.pt")
dist.destroy_process_group()
os._exit(0)  # Python aborts if a thread of gloo still holds a tensor while it ends
"""


class Pair(NamedTuple):
    grade: torch.Tensor
    risk: torch.Tensor


class TwoHeads(nn.Module):
    """Two tasks, handed out as `pack` packs them."""

    def __init__(self, pack):
        super().__init__()
        torch.manual_seed(1)
        self.grade, self.risk = MeanHead(8, 3), MeanHead(8, 1)
        self.pack = pack

    def forward(self, latents):
        return self.pack(self.grade(latents), self.risk(latents))


HEADS = {
    "tuple": lambda: TwoHeads(lambda grade, risk: (grade, risk)),
    "dict": lambda: TwoHeads(lambda grade, risk: {"grade": grade, "risk": risk}),
    "Pair": lambda: TwoHeads(Pair),
}
OPTIONS = {
    "plain": {},
    "unused": {"find_unused_parameters": True},
    "static": {"static_graph": True},
}


def sum_of_squares(output):
    """The first task counts twice, so that tasks in the wrong place are seen."""
    grade, risk = output.values() if isinstance(output, dict) else output
    return 2 * grade.square().sum() + risk.square().sum()


def build(sizes):
    torch.manual_seed(0)
    encoders = {
        "rna": OmicEncoder(5, tokens=2, token_dim=4),
        "genes": OmicEncoder(7, token_dim=3),
        "image": LearnedEncoder(nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 4)), 4),
    }
    sizes = {"num_latents": 3, "latent_dim": 8, "num_heads": 2, "head_dim": 5} | sizes
    return HEALNet(encoders, **sizes).double()


def cases(world):
    """Patients' inputs, which of them each rank has, and the modalities that a rank leaves out or masks."""
    generator = torch.Generator().manual_seed(3)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    b = 7
    inputs = {"rna": normal(b, 5), "genes": normal(b, 7), "image": normal(b, 11, 3)}
    rows = list(torch.arange(b).split([4, 2, 1] if world == 3 else [5, 2]))
    few = {"self_attention": 1}
    lacks = {
        "nobody lacks anything": [{}] * world,
        "one rank lacks the image": [{"image"}] + [set()] * (world - 1),
        "uneven": [{"rna"}, {"genes", "image"}, {"image"}][:world],
        "all ranks lack the image": [{"image"}] * world,
        "one rank has nothing at all": [set()] * (world - 1) + [{"rna", "genes", "image"}],
    }
    found = {
        name: {"inputs": inputs, "rows": rows, "lacks": [set(x) for x in absent], "sizes": few, "patients": b}
        for name, absent in lacks.items()
    }
    uneven = found["uneven"]
    found["tied, no self-attention"] = uneven | {
        "sizes": {"self_attention": 0, "tie_layers": True, "depth": 3}
    }
    return found


def part(case, rank):
    """What one rank gives its model: modalities that none of its patients has are left out, or all masked."""
    rows, lacks = case["rows"][rank], case["lacks"][rank]
    own = {name: take(x, rows) for name, x in case["inputs"].items()}
    everyone = torch.ones(len(rows), dtype=torch.bool)
    if lacks == set(own):  # a batch without any modality would be one patient
        return {name: hide(x, everyone) for name, x in own.items()}
    return {name: x for name, x in own.items() if name not in lacks}


def joined(case):
    """The same patients in one batch."""
    inputs = {}
    for name, value in case["inputs"].items():
        absent = torch.zeros(case["patients"], dtype=torch.bool)
        for rows, lacks in zip(case["rows"], case["lacks"], strict=True):
            absent[rows] = name in lacks
        inputs[name] = hide(value, absent)
    return inputs


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "world"), [("ddp", 2), ("ddp", 3), ("fsdp", 2), ("fsdp", 3)])
def test_gradients_and_losses_are_those_of_the_joined_batch(kind, world, tmp_path, run):
    results = run(WORKER, world, tmp_path, kind)
    for number, (name, case) in enumerate(cases(world).items()):
        model = build(case["sizes"])
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        gradients, losses = {}, []
        for step in range(2):
            loss = model(joined(case)).square().mean(dim=0).sum()
            loss.backward()
            losses.append(loss.detach())
            if step == 0:
                gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
            optimizer.step()
            optimizer.zero_grad()
        assert any((g != 0).any() for g in gradients.values())
        for theirs, their_losses in (result[number] for result in results):
            torch.testing.assert_close(their_losses, torch.stack(losses), rtol=0, atol=1e-9, msg=name)
            for parameter, gradient in gradients.items():
                torch.testing.assert_close(
                    theirs[parameter],
                    gradient,
                    rtol=0,
                    atol=1e-9,
                    msg=lambda m, where=(name, parameter): f"{where}: {m}",
                )


@pytest.mark.slow
def test_heads_of_several_outputs_train_as_in_one_process(tmp_path, run):
    results = run(HEADS_WORKER, 2, tmp_path)
    case = cases(2)["uneven"]
    for kind, head in HEADS.items():
        model = build(case["sizes"] | {"head": head()})
        (sum_of_squares(model(joined(case))) / case["patients"]).backward()
        for options in OPTIONS:
            for theirs in results:
                name, gradients = theirs[kind, options]
                assert name == kind
                for parameter, value in model.named_parameters():
                    torch.testing.assert_close(
                        gradients[parameter],
                        value.grad,
                        rtol=0,
                        atol=1e-9,
                        msg=lambda m, where=(kind, options, parameter): f"{where}: {m}",
                    )


def test_the_cases_are_uneven():
    """Every modality is absent from some rank of some case, and present on another."""
    seen = {
        (name, absent)
        for case, name in itertools.product(cases(3).values(), ("rna", "genes", "image"))
        for absent in [name in lacks for lacks in case["lacks"]]
    }
    assert seen == set(itertools.product(("rna", "genes", "image"), (False, True)))
