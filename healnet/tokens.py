"""The types that cross rooms: `Tokens` out of an encoder, `Masked` and `PatchBag` into one.

Everywhere a mask is boolean and **True means real**: padding and absence are the same thing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["LAYER_NORM_EPS", "Graph", "Masked", "PatchBag", "TimeSeries", "Tokens", "with_mask"]

LAYER_NORM_EPS = 1e-5  # torch.nn.LayerNorm's default, which released checkpoints were trained with


class Masked(NamedTuple):
    """A plain tensor with absence beside it, for any modality that is one tensor per patient.

    A NamedTuple of tensors, so that PyTorch's default collation, pinning and scattering over devices work.

    Shape:
        values: (b, *axes) or (b, *axes, c), as the modality's encoder takes it.
        mask: bool, True = real. (b,) says who has the modality at all; (b, *axes) says which elements are real.

    Example:
        >>> rna = Masked(torch.zeros(2, 3), torch.tensor([True, False]))  # the second patient has no RNA
        >>> rna.mask.tolist()
        [True, False]
    """

    values: Tensor
    mask: Tensor

    def to(self, *args: Any, **kwargs: Any) -> Masked:
        """Move as `Tensor.to` does; a dtype applies to the values, never to the mask."""
        return Masked(self.values.to(*args, **kwargs), _move(self.mask, *args, **kwargs))


class PatchBag(NamedTuple):
    """Patch features of one batch of patients, ragged bags padded to the longest.

    Shape:
        features: (b, n, c) float of any precision.
        coords: (b, n, 2) the (x, y) of each patch's top-left corner, or (b, n, 3) with the slide's index last.
        mask: (b, n) bool, True = a real patch. A patient without slides is a row of all False.
    """

    features: Tensor
    coords: Tensor
    mask: Tensor

    def to(self, *args: Any, **kwargs: Any) -> PatchBag:
        """Move as `Tensor.to` does; a dtype applies to the features alone: level-0 coordinates overflow float16."""
        return PatchBag(
            self.features.to(*args, **kwargs),
            _move(self.coords, *args, **kwargs),
            _move(self.mask, *args, **kwargs),
        )


def with_mask(value: Any, mask: Tensor) -> Any:
    """The same input with another mask. A type whose other fields hang on the mask brings its own `with_mask`."""
    own = getattr(value, "with_mask", None)
    return value._replace(mask=mask) if own is None else own(mask)


def _move(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """`tensor.to(...)`, its own dtype kept."""
    device = kwargs.get("device")
    for arg in args:
        if isinstance(arg, Tensor):
            device = arg.device
        elif isinstance(arg, (str, int, torch.device)) and not isinstance(arg, bool):
            device = arg
    return tensor if device is None else tensor.to(device, non_blocking=kwargs.get("non_blocking", False))


class Tokens:
    """What every encoder returns and every fusion layer reads: raw tokens with their positions.

    Shape:
        values: (b, n, c) floating point; positions are already concatenated to the channels.
        mask: (b, n) bool, True = real, or None where every token of every patient is real.

    Raises:
        ValueError: another number of axes, a mask of another shape or type.

    Example:
        >>> tokens = Tokens(torch.zeros(2, 5, 3), torch.tensor([[True] * 5, [False] * 5]))
        >>> tokens.present
        tensor([ True, False])
    """

    def __init__(self, values: Tensor, mask: Tensor | None = None) -> None:
        if values.dim() != 3 or not values.is_floating_point():
            raise ValueError(
                f"Tokens expect floating-point values of shape (b, n, c), got {values.dtype} of shape {tuple(values.shape)}"
            )
        if mask is not None and (mask.dtype != torch.bool or mask.shape != values.shape[:2]):
            raise ValueError(
                f"Tokens expect a bool mask of shape {tuple(values.shape[:2])}, "
                f"got {mask.dtype} of shape {tuple(mask.shape)}"
            )
        if mask is None and values.shape[1] == 0:  # nobody has a token
            mask = torch.zeros(values.shape[:2], dtype=torch.bool, device=values.device)
        self.values = values
        self.mask = mask
        self._standardised: Tensor | None = None

    def __repr__(self) -> str:
        mask = "None" if self.mask is None else f"{int(self.mask.sum())} of {self.mask.numel()} real"
        return f"Tokens(values={tuple(self.values.shape)} {self.values.dtype}, mask={mask})"

    @property
    def present(self) -> Tensor | None:
        """(b,) bool: who has at least one real token; None where everybody has."""
        return None if self.mask is None else self.mask.any(dim=1)

    def standardised(self, dtype: torch.dtype | None = None) -> Tensor:
        """Each token's values less their mean, over their standard deviation: LayerNorm without its affine part.

        Computed once and kept, because all heads of all layers attend to the same standardised tokens and only the gain
        and bias differ (DESIGN: token-space attention). Masked tokens are zero, whatever they held, NaN included.

        Args:
            dtype: of the first call decides the type of the result (default: that of the values); statistics are taken
                before anything is rounded to it.

        Returns:
            (b, n, c)
        """
        if self._standardised is None:
            dtype = dtype or self.values.dtype
            values = self.values.to(torch.promote_types(self.values.dtype, dtype))
            if self.mask is not None and not _known_to_be_real(self.mask):
                # Before the statistics: the gradient of a normalised NaN is NaN even behind a mask.
                values = values.masked_fill(~self.mask.unsqueeze(-1), 0)
            self._standardised = F.layer_norm(values, values.shape[-1:], eps=LAYER_NORM_EPS).to(dtype)
        return self._standardised


def _known_to_be_real(mask: Tensor) -> bool:
    """All True, where finding out costs next to nothing: a bag of 100,000 patches is then not copied."""
    traced = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    return mask.device.type == "cpu" and not traced and bool(mask.all())


class TimeSeries(NamedTuple):
    """Measurements at irregular times, short series padded to the longest of the batch.

    Shape:
        values: (b, t, c) float.
        times: (b, t) when each step was measured, in any one unit.
        mask: bool, True = measured. (b, t, c) says which values of a step are real, (b, t) which steps are.
    """

    values: Tensor
    times: Tensor
    mask: Tensor

    def to(self, *args: Any, **kwargs: Any) -> TimeSeries:
        """Move as `Tensor.to` does; a dtype applies to the values alone: a half-precision clock loses the hours."""
        return TimeSeries(
            self.values.to(*args, **kwargs),
            _move(self.times, *args, **kwargs),
            _move(self.mask, *args, **kwargs),
        )


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
        n = max(len(graph.nodes) for graph in graphs)
        e = max(graph.edge_index.shape[1] for graph in graphs)
        padded = []
        for graph in graphs:
            more_nodes, more_edges = n - len(graph.nodes), e - graph.edge_index.shape[1]
            padded.append(
                cls(
                    F.pad(graph.nodes, (0, 0, 0, more_nodes)),
                    F.pad(graph.edge_index, (0, more_edges)),
                    F.pad(graph.mask, (0, more_nodes)),
                    F.pad(graph.edge_mask, (0, more_edges)),
                    F.pad(graph.edges, (0, 0, 0, more_edges)),
                    F.pad(graph.centroids, (0, 0, 0, more_nodes)),
                )
            )
        return cls(*(torch.stack(field) for field in zip(*padded, strict=True)))

    def to(self, *args: Any, **kwargs: Any) -> Graph:
        """Move as `Tensor.to` does; a dtype applies to the features of nodes and edges alone."""
        return Graph(
            self.nodes.to(*args, **kwargs),
            _move(self.edge_index, *args, **kwargs),
            _move(self.mask, *args, **kwargs),
            _move(self.edge_mask, *args, **kwargs),
            self.edges.to(*args, **kwargs),
            _move(self.centroids, *args, **kwargs),
        )

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
