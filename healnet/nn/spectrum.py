"""Low end of a graph's Laplacian spectrum, in quantities that do not depend on the choice of eigenvectors.

Why not SciPy's shift-invert, `eigsh(I - walk, sigma=-1e-3)`, alone? It factorizes the matrix, and factors of a graph without
small separators (gene networks, neighbors in feature space) fill up. Measured on one core, four positions, ours against
shift-invert, equal to 1e-9, repeated eigenvalues of a torus included: cells in the plane 0.06 to 0.02 s at 2,500 nodes, 0.33
to 0.11 s at 10,000, 4.5 to 0.9 s at 40,000; a random graph of degree 6 0.03 to 1.3 s and 59 MB at 2,500 nodes, 0.14 s to
more than two minutes at 10,000. Positions are computed once per graph, so a bound on the worst case is worth more.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

__all__ = ["lowest_eigenspaces"]

# Up to this many nodes LAPACK finds all eigenvectors, in 0.05 s.
_DENSE = 512
# Eigenvalues nearer to each other than this, relative to themselves, are one: LAPACK's eigenvectors of eigenvalues of size 1
# are then good to 1e-16 / 1e-5. In a large graph, whose lowest eigenvalues are small, so are their distances.
_EQUAL = 1e-5
# Eigenvectors computed beyond those wanted, and how many more an eigenspace at the end of the list may need.
_GUARD = 4
_EXTRA = 16


def lowest_eigenspaces(walk: Any, degree: Any, count: int, dense: int = _DENSE) -> Any:
    """(n, count): sqrt(n) times the root mean square of the eigenvectors of each eigenvalue's eigenspace, node by node.

    Args:
        walk: D^-1/2 A D^-1/2 of a connected graph of at least two nodes, SciPy CSR.
        degree: (n,) the degrees.
        count: Nontrivial eigenvalues of I - walk to take, from the lowest, with their multiplicities.
        dense: Number of nodes up to which the whole spectrum is computed; also where `count` is a good part of it.
    """
    n = walk.shape[0]
    trivial = np.sqrt(degree / degree.sum())[:, None]
    if n <= max(dense, 4 * (count + _GUARD)):
        values, vectors = np.linalg.eigh(walk.toarray() - trivial @ trivial.T - 2 * trivial @ trivial.T)
        # The trivial eigenvalue, 1, was moved to -2, out of the way; the others lie within [-1, 1].
        values, vectors = 1 - values[:0:-1], vectors[:, :0:-1]
        missing = np.inf
    else:
        values, vectors, missing = _krylov(walk, trivial, count)
    return _by_eigenspace(values, vectors, count, missing) * np.sqrt(n)


def _by_eigenspace(values: Any, vectors: Any, count: int, missing: float) -> Any:
    """Ascending eigenvalues and their vectors -> the root mean square over each one's eigenspace.

    About the eigenvalue `missing`, and from there on, there are vectors that were not found.
    """
    result = np.zeros((len(vectors), count))
    edges = [0, *(np.flatnonzero(~_equal(values[1:], values[:-1])) + 1), len(values)]
    for start, stop in pairwise(edges):
        following = values[stop] if stop < len(values) else np.inf
        # Of an eigenspace that may have further vectors nothing can be said.
        if start >= count or missing < (values[start] + following) / 2:
            break
        result[:, start : min(stop, count)] = np.sqrt((vectors[:, start:stop] ** 2).mean(axis=1))[:, None]
    return result


def _equal(left: Any, right: Any) -> Any:
    return np.abs(left - right) <= _EQUAL * np.maximum(left, right)


def _krylov(walk: Any, trivial: Any, count: int) -> tuple[Any, Any, float]:
    """At least the `count` lowest nontrivial eigenpairs, and the lowest eigenvalue, if they need it, that has further ones.

    Lanczos (ARPACK) on a polynomial of `walk` that stretches the crowded low end of a large Laplacian (see `_Filter`). What
    one Krylov space may miss, further vectors of a repeated eigenvalue, is looked for beside what was found.
    """
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    n = walk.shape[0]
    draw = np.random.default_rng(0).standard_normal
    number = count + _GUARD
    stretch = _stretched(walk, trivial, draw(n), number)

    def with_more(found: Any, number: int, rounds: int) -> Any:
        known = np.concatenate((trivial, found), axis=1)
        beside = LinearOperator(
            (n, n), matvec=lambda x: _beside(stretch(_beside(x.ravel(), known)), known), dtype=float
        )
        size = max(40, 2 * number + 8)
        # Each time from another vector: of a repeated eigenvalue, a Krylov space holds no more than its start does.
        _, more = eigsh(beside, k=number, which="LA", ncv=size, v0=draw(n), maxiter=rounds, tol=1e-10)
        found = np.concatenate((found, np.linalg.qr(_beside(more, known))[0]), axis=1)
        values, rotation = np.linalg.eigh(found.T @ (walk @ found))
        return 1 - values[::-1], found @ rotation[:, ::-1]

    values, found = with_more(trivial[:, :0], number, rounds=1000)
    while True:
        last, end = (stretch.at(1 - value * (1 + _EQUAL)) for value in (values[count - 1], values[-1]))
        largest = _ritz_values(stretch, np.concatenate((trivial, found), axis=1), draw(n), 40)[-1]
        if largest < (last + end) / 2:
            return values, found, np.inf
        missing = 1 - stretch.before(max(float(largest), 1.0))
        if len(values) == number + _EXTRA:
            return values, found, missing
        try:
            values, found = with_more(found, 1, rounds=100)
        except ArpackNoConvergence:
            return values, found, missing


def _beside(x: Any, known: Any) -> Any:
    return x - known @ (known.T @ x)


class _Filter:
    """T_m(walk), with [-1, cut] mapped to [-1, 1]: at most 1 in size there, and growing steeply above the cut.

    Wanted eigenvalues above the cut come apart, and Lanczos finds them in a tenth of the steps, each of which has to be
    made orthogonal to all before it (Zhou and Saad 2007, doi 10.1137/050630404). Of degree 1: walk + 2.
    """

    def __init__(self, walk: Any, cut: float = 1.0, degree: int = 1) -> None:
        self.walk, self.cut, self.degree = walk, cut, degree

    def __call__(self, x: Any) -> Any:
        return self._recur(self.walk.__matmul__, x)

    def at(self, eigenvalue: float) -> float:
        """Apply the filter to an eigenvalue of `walk`."""
        return self._recur(lambda x: eigenvalue * x, 1.0)

    def before(self, value: float) -> float:
        """The eigenvalue of `walk`, above the cut, that became `value`."""
        if self.degree == 1:
            return value - 2
        return float(np.cosh(np.arccosh(value) / self.degree) * (self.cut + 1) + self.cut - 1) / 2

    def _recur(self, walk: Callable[[Any], Any], x: Any) -> Any:
        if self.degree == 1:  # positive, because 0 is where `_krylov` puts what is known
            return walk(x) + 2 * x
        middle, half = (self.cut - 1) / 2, (self.cut + 1) / 2
        before, now = x, (walk(x) - middle * x) / half
        for _ in range(self.degree - 1):
            before, now = now, (walk(now) - middle * now) * (2 / half) - before
        return now


def _stretched(walk: Any, trivial: Any, start: Any, number: int) -> _Filter:
    """A filter with a cut below the `number` largest eigenvalues.

    Ritz values never exceed the eigenvalues they approximate (Cauchy), so the `number`-th Ritz value of a short Lanczos run
    is such a cut; a run on the filter that it gives finds a better one.
    """
    stretch = _Filter(walk)
    for _ in range(5):
        ritz = _ritz_values(stretch, trivial, start, 40 + number)
        if len(ritz) < number or (stretch.degree > 1 and ritz[-number] <= 1):
            break
        distance = max(1 - stretch.before(float(ritz[-number])), 1e-9)
        if stretch.degree > 1 and distance > 0.4 * (1 - stretch.cut):
            break
        # Half as far again, so that the last eigenvalue wanted stands clear of the cut.
        cut = 1 - min(1.5 * distance, 1.5)
        stretch = _Filter(walk, cut, degree=max(2, int(np.ceil(1.5 / np.sqrt(1 - cut)))))
    return stretch


def _ritz_values(apply: Callable[[Any], Any], known: Any, start: Any, steps: int) -> Any:
    """Ascending Ritz values of a Lanczos run with full orthogonalization, beside the `known` orthonormal vectors."""
    from scipy.linalg import eigvalsh_tridiagonal

    first = known.shape[1]
    basis = np.zeros((first + steps, len(start)))
    basis[:first] = known.T
    vector = _beside(start, known)
    diagonal: list[float] = []
    beside: list[float] = []
    for step in range(first, first + steps):
        size = float(np.linalg.norm(vector))
        if size < 1e-10:  # the space is exhausted
            break
        beside.append(size)
        basis[step] = vector / size
        vector = apply(basis[step])
        diagonal.append(float(vector @ basis[step]))
        for _ in range(2):
            vector = vector - (basis[: step + 1] @ vector) @ basis[: step + 1]
    return eigvalsh_tridiagonal(np.array(diagonal), np.array(beside[1:]))
