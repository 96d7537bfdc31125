"""Structural positions of the nodes of a graph, from its edges alone.

Both kinds commute with relabeling the nodes, whatever the symmetries of the graph, and look at each connected part by
itself. Edges are taken as undirected and simple: directions, repetitions and loops are ignored. SciPy does the sparse work.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from healnet.nn.spectrum import lowest_eigenspaces

__all__ = ["laplacian_positions", "return_probabilities"]

_LOG = logging.getLogger(__name__)
# Products of two entries held at once: 96 MiB for values and column numbers.
_BLOCK_PRODUCTS = 2**23
# Above so many products a minute may pass, of which a log message warns.
_MANY_PRODUCTS = 2e9


def return_probabilities(edge_index: Tensor, num_nodes: int, length: int) -> Tensor:
    """The probability that a random walk from a node is back after 2, 3, ..., `length` steps.

    The diagonals of P^k with P = D^-1 A (Dwivedi et al. 2022, "LSPE", arXiv 2110.07875, eq. 9), exact: with
    S = D^-1/2 A D^-1/2, diag(P^2j) are the squared row norms of S^j, and diag(P^(2j+1)) the products of the rows of S^j and
    S^(j+1), so that only half of the length is ever multiplied out, a block of rows at a time. Time grows with the
    number of walks of length / 2 + 1 steps, memory does not. An isolated node never returns.

    Shape:
        edge_index: (2, e) integer -> (num_nodes, length - 1) float64

    Raises:
        ValueError: A `length` below 2.

    Example:
        >>> triangle = torch.tensor([[0, 1, 2], [1, 2, 0]])
        >>> return_probabilities(triangle, num_nodes=3, length=3)  # back and forth; around, one way or the other
        tensor([[0.5000, 0.2500],
                [0.5000, 0.2500],
                [0.5000, 0.2500]], dtype=torch.float64)
    """
    if length < 2:
        raise ValueError(f"expected a length of at least 2, got {length}: no walk is back after one step")
    walk, _ = _normalized_adjacency(edge_index, num_nodes)
    counts = np.diff(walk.indptr)
    _announce(walk, counts, length)
    result = np.zeros((num_nodes, length - 1))
    for start in range(0, num_nodes, 1024):
        rows = np.arange(start, min(start + 1024, num_nodes))
        for part, column, values in _diagonals(walk, counts, rows, walk[rows], 1, length):
            result[part, column] = values
    return torch.from_numpy(result)


def _diagonals(
    walk: Any, counts: Any, rows: Any, power: Any, half: int, length: int
) -> Iterator[tuple[Any, int, Any]]:
    """(rows, column, diagonal) for all lengths from 2 * half; `power` holds these rows of walk^half."""
    yield rows, 2 * half - 2, np.asarray(power.multiply(power).sum(axis=1)).ravel()
    if 2 * half + 1 > length:
        return
    if len(rows) > 1 and counts[power.indices].sum() > _BLOCK_PRODUCTS:
        middle = len(rows) // 2
        parts = [(rows[:middle], power[:middle]), (rows[middle:], power[middle:])]
    else:
        parts = [(rows, power)]
    for part, old in parts:
        new = old @ walk
        yield part, 2 * half - 1, np.asarray(old.multiply(new).sum(axis=1)).ravel()
        if 2 * half + 2 <= length:
            yield from _diagonals(walk, counts, part, new, half + 1, length)


def _announce(walk: Any, counts: Any, length: int) -> None:
    pattern = walk.copy()
    pattern.data[:] = 1.0
    walks = counts.astype(float)
    for _ in range(length // 2 - 1 + length % 2):
        walks = pattern @ walks
    # In a dense graph walks meet again, and no row of a power has more than all nodes.
    products = min(walks.sum(), len(counts) * walk.nnz)
    if products > _MANY_PRODUCTS:
        _LOG.warning(
            "return probabilities of a graph of %d nodes up to length %d take about %.0e products; "
            "a smaller length takes fewer",
            len(counts),
            length,
            products,
        )


def laplacian_positions(edge_index: Tensor, num_nodes: int, count: int) -> Tensor:
    """The size of each node's entries in the `count` lowest nontrivial eigenvectors of the normalized Laplacian.

    Laplacian positions (Dwivedi and Bresson 2021, arXiv 2012.09699) are only defined up to a sign, and where an eigenvalue
    repeats, up to any rotation of its eigenspace, so that entries would differ between two numberings of one graph. What
    does not differ is the diagonal of the projection onto an eigenspace. With V the eigenspace (m columns) that the i-th
    eigenvalue belongs to,

        position[u, i] = sqrt(size / m * sum_j V[u, j]^2)

    which is |v| times the root of the part's size where the eigenvalue is simple: about 1 on average in a graph of any size.
    Each connected part has its own eigenvalues, as many positions as it has, and zeros for the rest. So has an eigenspace of
    a large part (over 512 nodes) that reaches 20 eigenvalues beyond `count`, and all above it.

    Shape:
        edge_index: (2, e) integer -> (num_nodes, count) float64

    Example:
        >>> path = torch.tensor([[0, 1], [1, 2]])
        >>> laplacian_positions(path, num_nodes=3, count=1).flatten().round(decimals=4)  # |v| = (1, 0, 1) / sqrt(2)
        tensor([1.2247, 0.0000, 1.2247], dtype=torch.float64)
    """
    from scipy.sparse.csgraph import connected_components, reverse_cuthill_mckee

    result = np.zeros((num_nodes, count))
    if count == 0 or num_nodes == 0:
        return torch.from_numpy(result)
    walk, degree = _normalized_adjacency(edge_index, num_nodes)
    _, label = connected_components(walk, directed=False)
    # Neighbors near each other in memory, and each part in one piece.
    order = reverse_cuthill_mckee(walk, symmetric_mode=True)
    order = order[np.argsort(label[order], kind="stable")]
    walk, degree = walk[order][:, order].tocsr(), degree[order]
    sizes = np.bincount(label)
    for start, size in zip(np.cumsum(sizes) - sizes, sizes, strict=True):
        if size > 1:
            part = slice(start, start + size)
            result[order[part]] = lowest_eigenspaces(walk[part, part], degree[part], count)
    return torch.from_numpy(result)


def _normalized_adjacency(edge_index: Tensor, num_nodes: int) -> tuple[Any, Any]:
    """D^-1/2 A D^-1/2 as a SciPy CSR matrix, and the degrees."""
    from scipy.sparse import coo_array

    source, target = edge_index.detach().cpu().numpy().astype(np.int64)
    loops = source == target
    source, target = source[~loops], target[~loops]
    both = np.concatenate((source, target)), np.concatenate((target, source))
    walk = coo_array((np.ones(len(both[0])), both), shape=(num_nodes, num_nodes)).tocsr()
    walk.sum_duplicates()
    degree = np.diff(walk.indptr).astype(float)
    inverse = np.divide(1.0, np.sqrt(degree), out=np.zeros_like(degree), where=degree > 0)
    walk.data = np.repeat(inverse, np.diff(walk.indptr)) * inverse[walk.indices]
    return walk, degree
