"""Cox's loss over the patients of all processes: `distributed_cox_nll`."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from healnet.survival._checks import ArrayOrTensor, as_event, as_vector, check_choice, one_output
from healnet.survival.losses._reduction import exact
from healnet.survival.losses.cox import cox_nll

__all__ = ["distributed_cox_nll"]


def distributed_cox_nll(
    log_hazard: Tensor,
    time: ArrayOrTensor,
    event: ArrayOrTensor,
    ties: str = "efron",
    strata: ArrayOrTensor | None = None,
    weights: ArrayOrTensor | None = None,
    reduction: str = "mean",
    group: dist.ProcessGroup | None = None,
    averaged: bool = True,
) -> Tensor:
    """Compute `cox_nll` over the patients of every process of a group, not the mean of the losses of each.

    A patient's term needs all patients at risk, so losses per process do not add up. Here each process gathers
    the others' risks (detached), puts its own back, joined to the graph, and takes the loss over all; its
    gradient is then that of the whole loss in its own outputs. The processes may hold different numbers of
    patients, or none.

    Args:
        log_hazard: Raw outputs of this process.
        time: Follow-up times of its patients.
        event: Events, True = observed.
        ties: Treatment of ties, "efron" or "breslow".
        strata: Strata of the patients; on every process or on none.
        weights: Weights of the patients; on every process or on none.
        reduction: Reduction of the terms: "mean" per event of all processes, or "sum".
        group: Process group; the default one if left out.
        averaged: Whether gradients will be *averaged* over the processes, as DistributedDataParallel does. They are
            then multiplied by the number of processes here, so that the average is the gradient of the whole loss.
            False where they will be summed.

    Shape:
        log_hazard: (b,) or (b, 1)
        time, event, strata, weights: (b,)
        returns: a scalar, the same number on every process.

    Raises:
        ValueError: As `cox_nll`; reduction "none".
        RuntimeError: No process group (from torch.distributed).
    """
    check_choice("reduction", reduction, ("mean", "sum"))
    eta = one_output(log_hazard, "log_hazard")
    columns = [exact(eta.detach()), exact(as_vector(time, "time", eta)), exact(as_event(event, eta))]
    columns += [
        exact(as_vector(extra, "strata and weights", eta)) for extra in (strata, weights) if extra is not None
    ]
    parts = _gather_rows(torch.stack(columns, dim=1), group)
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    scale = world if averaged else 1
    own = eta.detach() + scale * (eta - eta.detach())  # the same value, `scale` times the gradient
    risks = [part[:, 0] for part in parts]
    risks[rank] = exact(own)
    shared = torch.cat(parts)
    extras = iter(shared[:, 3:].T)
    return cox_nll(
        torch.cat(risks),
        shared[:, 1],
        shared[:, 2].bool(),
        ties,
        None if strata is None else next(extras),
        None if weights is None else next(extras),
        reduction,
    ).to(eta.dtype)


def _gather_rows(rows: Tensor, group: dist.ProcessGroup | None) -> list[Tensor]:
    """Gather the rows of every process, in the order of ranks; padded on the way, because collectives want equal shapes."""
    world = dist.get_world_size(group)
    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.zeros_like(count) for _ in range(world)]
    dist.all_gather(counts, count, group=group)
    sizes = [int(size) for size in counts]
    padded = rows.new_zeros(max(sizes), rows.shape[1])
    padded[: len(rows)] = rows
    gathered = [torch.zeros_like(padded) for _ in range(world)]
    dist.all_gather(gathered, padded, group=group)
    return [part[:size] for part, size in zip(gathered, sizes, strict=True)]
