"""Graphs of cells, regions or genes: `Graph`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from healnet.inputs.map_tensors import converted

__all__ = ["Graph"]


class Graph(NamedTuple):
    """One graph per patient, smaller ones padded to the largest of the batch. `Graph.of` makes one, `stack` a batch.

    Shape:
        nodes: (b, n, c) float, features of the nodes.
        edge_index: (b, 2, e) integer, the two ends of each edge, numbered within the graph (PyTorch Geometric's layout).
        mask: (b, n) bool, True = a real node. A patient without a graph is a row of all False.
        edge_mask: (b, e) bool, True = a real edge.
        edges: (b, e, w) float, features of the edges; w = 0 where they have none.
        centroids: (b, n, a) places of the nodes; a = 0 where they have none.
    """

    nodes: Tensor
    edge_index: Tensor
    mask: Tensor
    edge_mask: Tensor
    edges: Tensor
    centroids: Tensor

    @staticmethod
    def ragged() -> tuple[str, ...]:
        """Fields that `healnet.data.collate` may pad along every axis."""
        return ("edge_index",)

    @classmethod
    def of(
        cls, nodes: Tensor, edge_index: Tensor, edges: Tensor | None = None, centroids: Tensor | None = None
    ) -> Graph:
        """The graph of one patient, without the axis b: nodes (n, c), edge_index (2, e), edges (e, w), centroids (n, a).

        Example:
            >>> path = Graph.of(torch.zeros(3, 5), torch.tensor([[0, 1], [1, 2]]))
            >>> lonely = Graph.of(torch.zeros(1, 5), torch.empty(2, 0, dtype=torch.long))
            >>> Graph.stack([path, lonely]).mask.tolist()
            [[True, True, True], [True, False, False]]
        """
        n, e = len(nodes), edge_index.shape[-1]
        return cls(
            nodes,
            edge_index,
            torch.ones(n, dtype=torch.bool, device=nodes.device),
            torch.ones(e, dtype=torch.bool, device=nodes.device),
            nodes.new_zeros(e, 0) if edges is None else edges,
            nodes.new_zeros(n, 0) if centroids is None else centroids,
        )

    @classmethod
    def stack(cls, graphs: Sequence[Graph]) -> Graph:
        """Graphs of single patients into one batch, padded at the end."""
        # Every field by its first axis, which edge_index has second.
        rows = [graph._replace(edge_index=graph.edge_index.T) for graph in graphs]
        batch = cls(*(pad_sequence(list(field), batch_first=True) for field in zip(*rows, strict=True)))
        return batch._replace(edge_index=batch.edge_index.transpose(1, 2).contiguous())

    def to(self, *args: Any, **kwargs: Any) -> Graph:
        """Move as `Tensor.to` does; a dtype applies to the features of nodes and edges alone."""
        moved: Graph = converted(self, ("nodes", "edges"), *args, **kwargs)
        return moved

    def with_mask(self, mask: Tensor) -> Graph:
        """The graph with these nodes (b, n): an edge goes when one of its ends does.

        Example:
            >>> path = Graph.stack([Graph.of(torch.zeros(3, 5), torch.tensor([[0, 1], [1, 2]]))])
            >>> path.with_mask(torch.tensor([[True, True, False]])).edge_mask.tolist()
            [[True, False]]
        """
        ends = self.edge_index.long().masked_fill(~self.edge_mask.unsqueeze(1), 0).flatten(1)
        both = mask.gather(1, ends).reshape(self.edge_index.shape).all(dim=1)
        return self._replace(mask=mask, edge_mask=self.edge_mask & both)
