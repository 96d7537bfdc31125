"""Processes among which each patient's tokens are split: `TokenShards`.

Attention over the tokens of all processes is attention over those of each, merged: the softmax's maximum, its sum and the
weighted values are reduced over the group (`SoftmaxState`), and in the backward pass the gradient of the queries. What does
not read tokens is computed by every process alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from healnet.nn.softmax import SoftmaxState, finite_lse

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["TokenShards"]


class TokenShards:
    """A group of processes, each with a part of the tokens of the same patients.

    Args:
        group: Process group, or a one-dimensional `DeviceMesh`.

    Attributes:
        rank: Number of this process in the group.
        size: Number of processes.

    Raises:
        ValueError: A mesh of several dimensions.
    """

    def __init__(self, group: dist.ProcessGroup | DeviceMesh) -> None:
        if not isinstance(group, dist.ProcessGroup):
            if group.ndim != 1:
                raise ValueError(
                    f"expected a mesh of one dimension, such as mesh['tokens'], got {group.ndim}: "
                    f"{group.mesh_dim_names}"
                )
            group = group.get_group()
        self._group = group
        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)

    def __deepcopy__(self, memo: dict[int, Any]) -> TokenShards:
        """The same processes: a group cannot be copied."""
        return self

    def maximum(self, x: Tensor) -> Tensor:
        """The largest of each element over the processes; no gradient."""
        x = x.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x, dist.ReduceOp.MAX, group=self._group)
        return x

    def total(self, x: Tensor) -> Tensor:
        """The sum of each element over the processes; no gradient."""
        x = x.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x, group=self._group)
        return x

    def sizes(self, size: int, device: torch.device) -> list[int]:
        """The sizes that the processes bring, in their order."""
        own = torch.zeros(self.size, dtype=torch.long, device=device)
        own[self.rank] = size
        found: list[int] = self.total(own).tolist()
        return found

    def merge(self, state: SoftmaxState) -> SoftmaxState:
        """The state over the tokens of all processes, from that over each one's own."""
        top = self.maximum(state.maximum)
        own = state.rescaled(top)
        both = self.total(torch.cat((own.weighted, own.total.unsqueeze(-1)), dim=-1))  # one message
        return SoftmaxState(top, both[..., -1], both[..., :-1])

    def rescale(self, probabilities: Tensor, own: Tensor, whole: Tensor) -> Tensor:
        """Probabilities (B, r, n) among the tokens of this process as those among all, from both log-sum-exps (B, r)."""
        return probabilities * (own - finite_lse(whole)).exp().unsqueeze(-1)

    def shared(self, parameters: list[Tensor]) -> list[Tensor]:
        """The same parameters, for a computation on this process's tokens; gradients are summed over the processes."""
        if not parameters:
            return []
        return list(_Shared.apply(self, *parameters))  # type: ignore[no-untyped-call]


class _Shared(torch.autograd.Function):
    """The identity, whose backward pass is one sum over the processes."""

    @staticmethod
    def forward(ctx: Any, shards: TokenShards, *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.shards = shards
        return tuple(parameter.view_as(parameter) for parameter in parameters)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        # One tensor a time, in their order, which is the same on every process.
        return (None, *(ctx.shards.total(gradient) for gradient in gradients))
