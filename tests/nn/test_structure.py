"""Structural positions against closed forms and dense algebra, and the law of relabeling."""

import logging
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from healnet.nn.spectrum import lowest_eigenspaces
from healnet.nn.structure import _normalized_adjacency, laplacian_positions, return_probabilities


def ring(n):
    return torch.tensor([range(n), [*range(1, n), 0]])


def torus(m):
    index = torch.arange(m * m).reshape(m, m)
    pairs = [torch.stack((index.flatten(), index.roll(1, axis).flatten())) for axis in (0, 1)]
    return torch.cat(pairs, dim=1)


def star(leaves):
    return torch.stack((torch.zeros(leaves, dtype=torch.long), torch.arange(1, leaves + 1)))


def dense_walk(edges, n):
    a = torch.zeros(n, n, dtype=torch.float64)
    a[edges[0], edges[1]] = 1
    a = ((a + a.T) > 0).double()
    a.fill_diagonal_(0)
    degree = a.sum(1, keepdim=True)
    return torch.where(degree > 0, a / degree.clamp(min=1), torch.zeros_like(a))


def random_graph(n, e, seed):
    return torch.randint(0, n, (2, e), generator=torch.Generator().manual_seed(seed))


def relabeled(edges, n, seed):
    """The same graph under another numbering, its edges shuffled and half of them turned around."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(n, generator=generator)
    new = order[edges][:, torch.randperm(edges.shape[1], generator=generator)]
    turned = torch.rand(edges.shape[1], generator=generator) < 0.5
    return order, torch.where(turned, new.flip(0), new)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 12), e=st.integers(0, 25), length=st.integers(2, 9), seed=st.integers(0, 1000))
def test_return_probabilities_are_the_diagonals_of_powers(n, e, length, seed):
    edges = random_graph(n, e, seed)
    walk = dense_walk(edges, n)
    expected = torch.stack([torch.linalg.matrix_power(walk, k).diagonal() for k in range(2, length + 1)], 1)
    torch.testing.assert_close(return_probabilities(edges, n, length), expected, rtol=0, atol=1e-12)


def test_return_probabilities_in_small_blocks_are_the_same(monkeypatch):
    edges = random_graph(50, 200, 0)
    whole = return_probabilities(edges, 50, 7)
    monkeypatch.setattr("healnet.nn.structure._BLOCK_PRODUCTS", 40)
    torch.testing.assert_close(return_probabilities(edges, 50, 7), whole, rtol=0, atol=1e-14)


def test_a_long_computation_is_announced(caplog, monkeypatch):
    monkeypatch.setattr("healnet.nn.structure._MANY_PRODUCTS", 1e3)
    with caplog.at_level(logging.WARNING):
        return_probabilities(ring(10), 10, 4)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        return_probabilities(star(50), 51, 6)
    assert [record.message for record in caplog.records] == [
        "return probabilities of a graph of 51 nodes up to length 6 take about 5e+03 products; "
        "a smaller length takes fewer"
    ]


def test_a_small_dense_graph_is_not_announced(caplog):
    with caplog.at_level(logging.WARNING):
        return_probabilities(torch.combinations(torch.arange(200)).T, 200, 8)  # 3e11 walks, 8e6 products
    assert not caplog.records


def test_a_length_without_a_walk_is_refused():
    with pytest.raises(
        ValueError, match=r"^expected a length of at least 2, got 1: no walk is back after one step$"
    ):
        return_probabilities(ring(3), 3, 1)


def test_path_by_hand():
    # Normalized Laplacian of a path of three: eigenvalues 0, 1, 2; v1 = (1, 0, -1) / sqrt 2, v2 = (1, -sqrt 2, 1) / 2.
    positions = laplacian_positions(torch.tensor([[0, 1], [1, 2]]), 3, 4)
    expected = [
        [math.sqrt(1.5), math.sqrt(0.75), 0, 0],
        [0, math.sqrt(1.5), 0, 0],
        [math.sqrt(1.5), math.sqrt(0.75), 0, 0],
    ]
    torch.testing.assert_close(positions, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [5, 6, 97])
def test_all_nodes_of_a_ring_stand_alike(n):
    """Its eigenvalues come in pairs, whose single eigenvectors a computer may rotate at will."""
    torch.testing.assert_close(
        laplacian_positions(ring(n), n, 4), torch.ones(n, 4, dtype=torch.float64), rtol=0, atol=1e-10
    )


def test_an_eigenspace_that_is_cut_off_by_count_is_whole():
    # The lowest eigenvalue of a 7 x 7 torus has four eigenvectors; two are asked for.
    assert torch.allclose(
        laplacian_positions(torus(7), 49, 2), torch.ones(49, 2, dtype=torch.float64), atol=1e-10
    )


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(["random", "sparse", "ring", "torus", "star", "two rings"]),
    seed=st.integers(0, 1000),
)
def test_relabeling_relabels_the_positions(kind, seed):
    n, edges = {
        "random": (20, random_graph(20, 60, seed)),
        "sparse": (
            30,
            random_graph(30, 20, seed),
        ),  # many parts, isolated nodes, trees with repeated eigenvalues
        "ring": (12, ring(12)),
        "torus": (25, torus(5)),
        "star": (9, star(8)),
        "two rings": (14, torch.cat((ring(7), ring(7) + 7), dim=1)),
    }[kind]
    order, other = relabeled(edges, n, seed)
    for positions in (lambda g: laplacian_positions(g, n, 5), lambda g: return_probabilities(g, n, 6)):
        torch.testing.assert_close(positions(other)[order], positions(edges), rtol=0, atol=1e-8)


def test_parts_do_not_know_of_each_other():
    together = torch.cat((ring(6), torch.tensor([[6, 7, 8], [7, 8, 9]])), dim=1)  # and node 10 is alone
    positions = laplacian_positions(together, 11, 3)
    torch.testing.assert_close(positions[:6], laplacian_positions(ring(6), 6, 3), rtol=0, atol=1e-12)
    path = laplacian_positions(torch.tensor([[0, 1, 2], [1, 2, 3]]), 4, 3)
    torch.testing.assert_close(positions[6:10], path, rtol=0, atol=1e-12)
    assert positions[10].tolist() == [0, 0, 0]
    assert return_probabilities(together, 11, 5)[10].tolist() == [0, 0, 0, 0]


def test_directions_repetitions_and_loops_are_ignored():
    clean = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 1]])
    messy = torch.tensor([[0, 1, 2, 3, 1, 0, 2], [1, 2, 3, 1, 0, 1, 2]])
    for positions in (laplacian_positions, return_probabilities):
        torch.testing.assert_close(positions(messy, 4, 3), positions(clean, 4, 3), rtol=0, atol=1e-12)


def test_no_edges_and_no_nodes():
    none = torch.empty(2, 0, dtype=torch.long)
    assert laplacian_positions(none, 3, 2).tolist() == [[0, 0]] * 3
    assert return_probabilities(none, 3, 3).tolist() == [[0, 0]] * 3
    assert laplacian_positions(none, 0, 2).shape == (0, 2)
    assert return_probabilities(none, 0, 3).shape == (0, 2)


def sparse_spectrum(edges, n, count, dense):
    walk, degree = _normalized_adjacency(edges, n)
    return lowest_eigenspaces(walk, degree, count, dense=dense)


@pytest.mark.parametrize("kind", ["ladder", "torus"])
def test_krylov_finds_what_lapack_finds(kind):
    if kind == "torus":
        n, edges = 324, torus(18)
    else:  # a long strip: the eigenvalues crowd towards 0
        n, rail = 300, torch.arange(149)
        edges = torch.cat(
            [
                torch.stack((rail, rail + 1)),
                torch.stack((rail + 150, rail + 151)),
                torch.stack((torch.arange(150),) * 2),
            ],
            dim=1,
        )
        edges[1, -150:] += 150
    lapack = sparse_spectrum(edges, n, 6, dense=1000)
    krylov = sparse_spectrum(edges, n, 6, dense=0)
    np.testing.assert_allclose(krylov, lapack, rtol=0, atol=1e-7)


def test_many_eigenvectors_of_a_graph_that_is_not_small():
    edges = random_graph(530, 3000, 0)
    many = laplacian_positions(edges, 530, 150)
    torch.testing.assert_close(many[:, :5], laplacian_positions(edges, 530, 5), rtol=0, atol=1e-7)
    assert many.abs().sum(dim=0).min() > 0


def test_an_eigenspace_larger_than_first_looked_for():
    """The lowest eigenvalue of a hypercube of ten dimensions has ten eigenvectors."""
    corners = torch.arange(1024)
    edges = torch.cat([torch.stack((corners, corners ^ (1 << bit))) for bit in range(10)], dim=1)
    torch.testing.assert_close(
        laplacian_positions(edges, 1024, 2), torch.ones(1024, 2, dtype=torch.float64), rtol=0, atol=1e-8
    )


def test_an_eigenspace_too_large_to_find_is_left_out_whatever_lies_beyond():
    """The lowest eigenvalue of thirty equal legs has 29 eigenvectors; 20 are not enough to say anything of them."""
    legs = torch.arange(1, 1201).reshape(30, 40)
    first = torch.stack((torch.zeros(30, dtype=torch.long), legs[:, 0]))
    steps = torch.stack((legs[:, :-1].flatten(), legs[:, 1:].flatten()))
    assert laplacian_positions(torch.cat((first, steps), dim=1), 1201, 2).abs().max() == 0


def test_of_an_endless_eigenspace_nothing_is_said():
    """All but two eigenvectors of a star belong to one eigenvalue: too many to compute in a large graph."""
    assert np.abs(sparse_spectrum(star(600), 601, 3, dense=100)).max() == 0
