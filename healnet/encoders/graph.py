"""Graphs: a token per node, and optionally per edge, with its place in the structure."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor

from healnet.encoders.base import ModalityEncoder
from healnet.inputs import Graph
from healnet.nn.extent import within_extent, within_scale
from healnet.nn.fourier import fourier_features, fourier_width
from healnet.nn.structure import laplacian_positions, return_probabilities
from healnet.tokens import Tokens

__all__ = ["GraphEncoder"]


class GraphEncoder(ModalityEncoder):
    """Nodes as tokens: their features, and structural positions from the edges. Nothing is learned here.

    Positions are random-walk return probabilities (`healnet.nn.structure.return_probabilities`), the sizes of the entries of
    the lowest Laplacian eigenvectors (`laplacian_positions`) and, if wanted, Fourier features of the nodes' centroids.
    Renumbering the nodes renumbers the tokens and changes nothing else. Edges are undirected for the positions.

    Structural positions are computed on the CPU in float64, once per graph: the encoder keeps those of the last `cache`
    graphs, found again by their content (and left behind when the encoder is copied or saved).

    Args:
        node_dim: Features per node.
        walk_length: Longest walk; return probabilities of 2 to so many steps. 0 for none.
        eigenvectors: Laplacian eigenvectors. 0 for none.
        centroid_axes: Axes of the centroids, or 0 to leave them alone. They become places as in `PatchEncoder`.
        num_bands: Frequencies per axis of the centroids.
        max_freq: Sampling rate whose Nyquist frequency is the highest band.
        scale: Length, in the units of the centroids, that spans [-1, 1] from 0; None for each graph's own extent.
        edge_tokens: Whether edges are tokens too, after the nodes: the mean of its ends' tokens, with the edge's features.
        edge_dim: Features per edge, used by edge tokens only.
        cache: Graphs whose positions are kept, at 8 bytes per node and position (0.7 MB for 10,000 nodes by default).

    Shape:
        inputs: `Graph`, or a `torch_geometric.data.Data` or `Batch` with x, edge_index and perhaps edge_attr and pos
        returns: (b, n, token_dim), or (b, n + e, token_dim) with edge tokens. The token is the node's features, then, with
            edge tokens, the edge's features (0 for a node) and 1 for an edge or 0 for a node, then the positions.

    Raises:
        ValueError: A negative size; another number of axes or features; an edge to a node that is not there.

    Example:
        >>> ring = Graph.of(torch.randn(5, 3), torch.tensor([[0, 1, 2, 3, 4], [1, 2, 3, 4, 0]]))
        >>> encoder = GraphEncoder(3, walk_length=4, eigenvectors=2)
        >>> encoder(Graph.stack([ring])).values[0, :, 3:].round(decimals=3)  # all nodes of a ring stand alike
        tensor([[0.5000, 0.0000, 0.3750, 1.0000, 1.0000],
                [0.5000, 0.0000, 0.3750, 1.0000, 1.0000],
                [0.5000, 0.0000, 0.3750, 1.0000, 1.0000],
                [0.5000, 0.0000, 0.3750, 1.0000, 1.0000],
                [0.5000, 0.0000, 0.3750, 1.0000, 1.0000]])
    """

    def __init__(
        self,
        node_dim: int,
        walk_length: int = 6,
        eigenvectors: int = 4,
        centroid_axes: int = 0,
        num_bands: int = 4,
        max_freq: float = 32.0,
        scale: float | None = None,
        edge_tokens: bool = False,
        edge_dim: int = 0,
        cache: int = 10_000,
    ) -> None:
        super().__init__()
        if walk_length < 0 or walk_length == 1:
            raise ValueError(f"expected a walk_length of 0 or at least 2, got {walk_length}")
        for name, number in (
            ("eigenvectors", eigenvectors),
            ("centroid_axes", centroid_axes),
            ("cache", cache),
        ):
            if number < 0:
                raise ValueError(f"expected {name} to be at least 0, got {number}")
        if scale is not None and not scale > 0:
            raise ValueError(f"expected a positive scale or None, got {scale}")
        if edge_dim and not edge_tokens:
            raise ValueError("expected edge_tokens=True with edge_dim: only edge tokens carry edge features")
        self.node_dim = node_dim
        self.walk_length = walk_length
        self.eigenvectors = eigenvectors
        self.centroid_axes = centroid_axes
        self.num_bands = num_bands
        self.max_freq = max_freq
        self.scale = scale
        self.edge_tokens = edge_tokens
        self.edge_dim = edge_dim
        self.cache = cache
        self._positions = _Cache(cache)
        structure = max(0, walk_length - 1) + eigenvectors
        places = fourier_width(centroid_axes, num_bands)
        self.token_dim = node_dim + (edge_dim + 1 if edge_tokens else 0) + structure + places

    def extra_repr(self) -> str:
        """Return the text that `repr` shows."""
        return (
            f"node_dim={self.node_dim}, walk_length={self.walk_length}, eigenvectors={self.eigenvectors}, "
            f"centroid_axes={self.centroid_axes}, edge_tokens={self.edge_tokens}, edge_dim={self.edge_dim}"
        )

    def forward(self, inputs: Graph | Any) -> Tokens:
        """Encode a batch of graphs."""
        graph = inputs if isinstance(inputs, Graph) else _from_geometric(inputs)
        self._check(graph)
        nodes, mask = graph.nodes, graph.mask
        dtype = torch.float64 if nodes.dtype == torch.float64 else torch.float32
        structure_of = self._structure
        if torch.compiler.is_compiling():  # SciPy and a cache are nothing to compile
            structure_of = torch.compiler.disable(structure_of)
        structure = structure_of(graph).to(nodes.device, dtype)
        if not self.edge_tokens:
            parts = [nodes, structure.to(nodes.dtype)]
            if self.centroid_axes:
                parts.append(self._places(self._centroids(graph, dtype)).to(nodes.dtype))
            return Tokens(torch.cat(parts, dim=-1), mask)
        ends = graph.edge_index.long().masked_fill(~graph.edge_mask.unsqueeze(1), 0)
        flags = nodes.new_zeros(*nodes.shape[:2], self.edge_dim + 1)
        edge_flags = torch.cat(
            (graph.edges.to(nodes.dtype), graph.edge_mask.unsqueeze(-1).to(nodes.dtype)), dim=-1
        )
        node_parts = [nodes, flags, structure.to(nodes.dtype)]
        edge_parts = [_midway(nodes, ends), edge_flags, _midway(structure, ends).to(nodes.dtype)]
        if self.centroid_axes:
            places = self._centroids(graph, dtype)
            node_parts.append(self._places(places).to(nodes.dtype))
            # The place half-way, not the mean of sines.
            edge_parts.append(self._places(_midway(places, ends)).to(nodes.dtype))
        tokens = torch.cat((torch.cat(node_parts, dim=-1), torch.cat(edge_parts, dim=-1)), dim=1)
        return Tokens(tokens, torch.cat((mask, graph.edge_mask), dim=1))

    def _check(self, graph: Graph) -> None:
        nodes, index = graph.nodes, graph.edge_index
        if nodes.dim() != 3 or nodes.shape[2] != self.node_dim:
            raise ValueError(f"expected nodes of shape (b, n, {self.node_dim}), got {tuple(nodes.shape)}")
        b, n, _ = nodes.shape
        if index.dim() != 3 or index.shape[:2] != (b, 2) or index.is_floating_point():
            raise ValueError(
                f"expected an integer edge_index of shape ({b}, 2, e), got {index.dtype} of shape {tuple(index.shape)}"
            )
        e = index.shape[2]
        expected: dict[str, tuple[Tensor, tuple[int, ...]]] = {
            "mask": (graph.mask, (b, n)),
            "edge_mask": (graph.edge_mask, (b, e)),
        }
        if self.edge_tokens:
            expected["edges"] = (graph.edges, (b, e, self.edge_dim))
        if self.centroid_axes:
            expected["centroids"] = (graph.centroids, (b, n, self.centroid_axes))
        for name, (tensor, shape) in expected.items():
            if tensor.shape != shape:
                raise ValueError(f"expected {name} of shape {shape}, got {tuple(tensor.shape)}")
            if name.endswith("mask") and tensor.dtype != torch.bool:
                raise ValueError(f"expected a bool {name} (True = real), got {tensor.dtype}")

    def _structure(self, graph: Graph) -> Tensor:
        """(b, n, s) on the CPU in float64; zero where masked."""
        width = max(0, self.walk_length - 1) + self.eigenvectors
        result = torch.zeros(*graph.mask.shape, width, dtype=torch.float64, device="cpu")
        masks, edge_masks = graph.mask.cpu(), graph.edge_mask.cpu()
        for row, index in enumerate(graph.edge_index.detach().cpu().long()):
            real = masks[row]
            edges = index[:, edge_masks[row]]
            count = int(real.sum())
            if edges.numel() and (
                int(edges.min()) < 0 or int(edges.max()) >= len(real) or not real[edges].all()
            ):
                raise ValueError(
                    f"expected edges between the {count} real nodes of graph {row}, "
                    f"got one from or to node {_stray(edges, real)}"
                )
            # Real nodes need not be the first ones.
            number = real.cumsum(0) - 1
            edges = number[edges]
            positions = self._positions.get(count, edges)
            if positions is None:
                positions = self._compute(edges, count)
                self._positions.put(count, edges, positions)
            result[row, real] = positions
        return result

    def _compute(self, edges: Tensor, count: int) -> Tensor:
        parts = []
        if self.walk_length:
            parts.append(return_probabilities(edges, count, self.walk_length))
        if self.eigenvectors:
            parts.append(laplacian_positions(edges, count, self.eigenvectors))
        return torch.cat(parts, dim=1) if parts else torch.zeros(count, 0, dtype=torch.float64, device="cpu")

    def _centroids(self, graph: Graph, dtype: torch.dtype) -> Tensor:
        centroids = graph.centroids.to(dtype)
        if self.scale is None:
            return within_extent(centroids, graph.mask)
        return within_scale(centroids, graph.mask, self.scale)

    def _places(self, places: Tensor) -> Tensor:
        return fourier_features(places, self.num_bands, self.max_freq)


def _midway(values: Tensor, ends: Tensor) -> Tensor:
    """(b, n, c), (b, 2, e) -> (b, e, c): the mean of what both ends of each edge have."""
    both = [values.gather(1, end.unsqueeze(-1).expand(-1, -1, values.shape[2])) for end in ends.unbind(1)]
    return (both[0] + both[1]) / 2


def _stray(edges: Tensor, real: Tensor) -> int:
    flat = edges.flatten()
    inside = (flat >= 0) & (flat < len(real))
    known = inside & real[flat.clamp(0, len(real) - 1)] if len(real) else inside
    return int(flat[~known][0])


def _from_geometric(data: Any) -> Graph:
    """A `torch_geometric.data.Data` (one graph) or `Batch` (several), by their attributes: nothing is imported."""
    nodes, index = getattr(data, "x", None), getattr(data, "edge_index", None)
    if not isinstance(nodes, Tensor) or not isinstance(index, Tensor):
        raise ValueError(
            f"expected a Graph or a torch_geometric Data with x and edge_index, got {type(data).__name__}"
        )
    edges, centroids, owner = (getattr(data, name, None) for name in ("edge_attr", "pos", "batch"))
    if nodes.dim() == 1:  # one feature, as PyTorch Geometric reads it
        nodes = nodes.unsqueeze(-1)
    if edges is not None and edges.dim() == 1:
        edges = edges.unsqueeze(-1)
    if owner is None:
        return Graph.stack([Graph.of(nodes, index, edges, centroids)])
    graphs = []
    for number in range(int(getattr(data, "num_graphs", int(owner.max()) + 1))):
        own = owner == number
        first = int((owner < number).sum())
        kept = own[index[0]]
        graphs.append(
            Graph.of(
                nodes[own],
                index[:, kept] - first,
                None if edges is None else edges[kept],
                None if centroids is None else centroids[own],
            )
        )
    return Graph.stack(graphs)


class _Cache:
    """Positions of the graphs seen last, by content. A copy or a pickle of it starts empty."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()

    def __reduce__(self) -> tuple[type[_Cache], tuple[int]]:
        return (_Cache, (self.size,))

    def get(self, count: int, edges: Tensor) -> Tensor | None:
        key = self._key(count, edges)
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key]

    def put(self, count: int, edges: Tensor, positions: Tensor) -> None:
        self._kept[self._key(count, edges)] = positions
        while len(self._kept) > self.size:
            self._kept.popitem(last=False)

    @staticmethod
    def _key(count: int, edges: Tensor) -> bytes:
        digest = hashlib.blake2b(edges.contiguous().numpy().tobytes(), digest_size=16)
        return count.to_bytes(8, "little") + digest.digest()
