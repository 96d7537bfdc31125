"""Graphs: tokens by hand, numbering, padding, the cache, and the real cell graphs."""

import copy
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from healnet import HEALNet
from healnet.data import Batch, collate
from healnet.encoders import GraphEncoder
from healnet.inputs import Graph
from healnet.nn.fourier import fourier_features
from healnet.nn.structure import laplacian_positions, return_probabilities
from healnet.testing import check_encoder, check_model

REAL = Path(__file__).parents[1] / "data" / "real"


def random_graph(n, e, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    index = torch.randint(0, n, (2, e), generator=generator)
    return Graph.of(normal(n, 3), index, edges=normal(e, 2), centroids=1000 + 100 * normal(n, 2))


def batch():
    return Graph.stack([random_graph(7, 11, 0), random_graph(5, 4, 1), random_graph(1, 0, 2)])


def test_tokens_by_hand():
    graph = random_graph(7, 11, 0)
    tokens = GraphEncoder(3, walk_length=4, eigenvectors=2, centroid_axes=2, num_bands=1, scale=50.0)(
        Graph.stack([graph])
    )
    places = fourier_features(2 * graph.centroids / 50 - 1, 1, 32.0)
    structure = [return_probabilities(graph.edge_index, 7, 4), laplacian_positions(graph.edge_index, 7, 2)]
    expected = torch.cat((graph.nodes, *structure, places), dim=1)
    torch.testing.assert_close(tokens.values[0], expected, rtol=0, atol=1e-12)
    assert tokens.mask.all()


def test_edge_tokens_by_hand():
    graph = random_graph(7, 11, 0)
    encoder = GraphEncoder(
        3,
        walk_length=3,
        eigenvectors=0,
        centroid_axes=2,
        num_bands=1,
        scale=50.0,
        edge_tokens=True,
        edge_dim=2,
    )
    tokens = encoder(Graph.stack([graph, random_graph(2, 12, 5)]))
    assert tokens.mask[0].tolist() == [True] * 18 + [False]
    returns = return_probabilities(graph.edge_index, 7, 3)
    places = 2 * graph.centroids / 50 - 1
    waves = lambda x: fourier_features(x, 1, 32.0)  # noqa: E731
    nodes = torch.cat((graph.nodes, torch.zeros(7, 3), returns, waves(places)), dim=1)
    mean = lambda x: (x[graph.edge_index[0]] + x[graph.edge_index[1]]) / 2  # noqa: E731
    edges = torch.cat(
        (mean(graph.nodes), graph.edges, torch.ones(11, 1), mean(returns), waves(mean(places))), dim=1
    )
    torch.testing.assert_close(tokens.values[0, :18], torch.cat((nodes, edges)), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"centroid_axes": 2},
        {"edge_tokens": True, "edge_dim": 2, "centroid_axes": 2},
        {"walk_length": 0, "eigenvectors": 0},
    ],
)
def test_laws(options):
    def pad(graph):
        longer = Graph.stack(
            [Graph.of(torch.zeros(9, 3), torch.ones(2, 14).long(), torch.zeros(14, 2), torch.zeros(9, 2))]
        )
        rows = [Graph(*(field[i] for field in graph)) for i in range(3)]
        return Graph(*(field[:3] for field in Graph.stack([*rows, Graph(*(field[0] for field in longer))])))

    good = batch()
    wrong = [good._replace(nodes=good.nodes[..., :2]), good._replace(edge_index=good.edge_index[:, :1])]
    check_encoder(GraphEncoder(3, **options), good, pad=pad, wrong=wrong)


def test_numbering_the_nodes_otherwise_changes_no_output():
    torch.manual_seed(0)
    model = HEALNet({"graph": GraphEncoder(3, centroid_axes=2)}, out_dim=2).double()
    graph = random_graph(12, 20, 3)
    order = torch.randperm(12)
    new = torch.argsort(order)  # node i is now called new[i]
    other = Graph.of(graph.nodes[order], new[graph.edge_index], graph.edges, graph.centroids[order])
    both = model({"graph": Graph.stack([graph, other])})
    torch.testing.assert_close(both[0], both[1], rtol=0, atol=1e-9)


def test_in_a_model_with_absent_graphs():
    torch.manual_seed(0)
    model = HEALNet({"graph": GraphEncoder(3, edge_tokens=True, edge_dim=2)})
    check_model(model, {"graph": batch()})


def test_real_nodes_need_not_come_first():
    graph = random_graph(5, 8, 0)
    mask = torch.tensor([False, True, True, False, True, True, True])
    nodes = torch.full((7, 3), float("nan"), dtype=torch.float64)
    nodes[mask] = graph.nodes
    spread = Graph.of(nodes, mask.nonzero().flatten()[graph.edge_index])._replace(mask=mask)
    encoder = GraphEncoder(3)
    tokens = encoder(Graph.stack([spread]))
    torch.testing.assert_close(
        tokens.values[tokens.mask], encoder(Graph.stack([graph])).values[0], rtol=0, atol=1e-12
    )


def test_positions_are_computed_once_per_content(monkeypatch):
    calls = []
    encoder = GraphEncoder(3, cache=2)
    compute = encoder._compute
    monkeypatch.setattr(encoder, "_compute", lambda *args: calls.append(1) or compute(*args))
    graphs = batch()
    first = encoder(graphs)
    assert len(calls) == 3
    fresh = Graph(*(field.clone() for field in graphs))
    torch.testing.assert_close(
        encoder(Graph(*(field[1:] for field in fresh))).values, first.values[1:], rtol=0, atol=0
    )
    assert len(calls) == 3  # equal content, other tensors
    encoder(Graph(*(field[[1, 0]] for field in graphs)))
    assert len(calls) == 4  # two graphs fit: the first was forgotten
    encoder(Graph(*(field[[1]] for field in graphs)))
    assert len(calls) == 4  # and the one not seen for longest went when it came back


def test_a_copy_starts_with_an_empty_cache():
    encoder = GraphEncoder(3)
    encoder(batch())
    assert len(encoder._positions._kept) == 3
    other = copy.deepcopy(encoder)
    assert len(other._positions._kept) == 0
    torch.testing.assert_close(other(batch()).values, encoder(batch()).values, rtol=0, atol=0)


def test_collate_pads_graphs_as_stack_does():
    graphs = [random_graph(7, 11, 0), random_graph(5, 4, 1)]
    items = [Batch.of({"graph": graph}, str(i)) for i, graph in enumerate(graphs)]
    for made, expected in zip(collate(items).inputs["graph"], Graph.stack(graphs), strict=True):
        assert torch.equal(made, expected)


@pytest.fixture(scope="module")
def pyg():
    with warnings.catch_warnings():  # torch_geometric's own
        warnings.simplefilter("ignore")
        return pytest.importorskip("torch_geometric.data", reason="torch_geometric is in the dev extra")


def test_geometric_data_and_its_batches(pyg):
    first, second = random_graph(7, 11, 0), random_graph(5, 4, 1)
    data = [
        pyg.Data(x=graph.nodes, edge_index=graph.edge_index, edge_attr=graph.edges, pos=graph.centroids)
        for graph in (first, second)
    ]
    encoder = GraphEncoder(3, centroid_axes=2, edge_tokens=True, edge_dim=2)
    torch.testing.assert_close(encoder(data[0]).values, encoder(Graph.stack([first])).values, rtol=0, atol=0)
    expected = encoder(Graph.stack([first, second]))
    tokens = encoder(pyg.Batch.from_data_list(data))
    torch.testing.assert_close(tokens.values[tokens.mask], expected.values[expected.mask], rtol=0, atol=0)


def test_geometric_features_of_one_axis_are_one_feature(pyg):
    graph = random_graph(7, 11, 0)
    flat = pyg.Data(x=graph.nodes[:, 0], edge_index=graph.edge_index, edge_attr=graph.edges[:, 0])
    encoder = GraphEncoder(1, edge_tokens=True, edge_dim=1)
    column = Graph.of(graph.nodes[:, :1], graph.edge_index, graph.edges[:, :1])
    torch.testing.assert_close(encoder(flat).values, encoder(Graph.stack([column])).values, rtol=0, atol=0)


@pytest.mark.slow
def test_compiled_it_gives_the_same():
    encoder = GraphEncoder(3)
    compiled = torch.compile(encoder, backend="eager")
    torch.testing.assert_close(compiled(batch()).values, encoder(batch()).values, rtol=0, atol=0)


def test_dtype_moves_features_alone():
    moved = batch().to(torch.float32)
    assert [field.dtype for field in moved] == [
        torch.float32, torch.int64, torch.bool, torch.bool, torch.float32, torch.float64,
    ]  # fmt: skip


def test_wrong_input_is_refused():
    good = batch()
    cases = [
        (good._replace(nodes=good.nodes[..., :2]), r"expected nodes of shape \(b, n, 3\), got \(3, 7, 2\)"),
        (
            good._replace(edge_index=good.edge_index.transpose(1, 2)),
            r"expected an integer edge_index of shape \(3, 2, e\), got torch.int64 of shape \(3, 11, 2\)",
        ),
        (good._replace(mask=good.mask[:, :5]), r"expected mask of shape \(3, 7\), got \(3, 5\)"),
        (
            good._replace(edge_mask=good.edge_mask.long()),
            r"expected a bool edge_mask \(True = real\), got torch.int64",
        ),
        (
            good._replace(edge_mask=torch.ones_like(good.edge_mask), edge_index=good.edge_index.clamp(min=6)),
            r"expected edges between the 5 real nodes of graph 1, got one from or to node 6",
        ),
        (
            torch.zeros(3, 7, 3),
            "expected a Graph or a torch_geometric Data with x and edge_index, got Tensor",
        ),
    ]
    for wrong, message in cases:
        with pytest.raises(ValueError, match=f"^{message}$"):
            GraphEncoder(3)(wrong)
    with pytest.raises(ValueError, match=r"^expected centroids of shape \(3, 7, 3\), got \(3, 7, 2\)$"):
        GraphEncoder(3, centroid_axes=3)(good)
    with pytest.raises(ValueError, match=r"^expected a walk_length of 0 or at least 2, got 1$"):
        GraphEncoder(3, walk_length=1)
    for name in ("eigenvectors", "centroid_axes", "cache"):
        with pytest.raises(ValueError, match=f"^expected {name} to be at least 0, got -1$"):
            GraphEncoder(3, **{name: -1})
    with pytest.raises(
        ValueError, match=r"^expected edge_tokens=True with edge_dim: only edge tokens carry edge features$"
    ):
        GraphEncoder(3, edge_dim=2)


def test_pieces_of_real_cell_graphs():
    check_cell_graphs(sorted(REAL.glob("*_cells.npz")), [91, 38])


@pytest.mark.whole_files
def test_real_cell_graphs(whole_files):
    check_cell_graphs(sorted((whole_files / "graphs").glob("*.npz")), [667, 711, 373])


def check_cell_graphs(paths, sizes):
    graphs = []
    for path in paths:
        with np.load(path) as file:
            index = torch.from_numpy(file["edge_index"].astype(np.int64))
            graphs.append(
                Graph.of(
                    torch.from_numpy(file["node_features"]),
                    index,
                    centroids=torch.from_numpy(file["centroid"]),
                )
            )
    assert [len(graph.nodes) for graph in graphs] == sizes
    encoder = GraphEncoder(graphs[0].nodes.shape[1], centroid_axes=2)
    both = Graph.stack(graphs)
    tokens = encoder(both)
    assert bool(torch.isfinite(tokens.values[tokens.mask]).all())
    started = time.process_time()
    encoder(both)
    assert time.process_time() - started < 1.0  # from the cache
    graph = graphs[0]
    n = len(graph.nodes)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    other = torch.argsort(order)[graph.edge_index]
    for positions in (
        lambda edges: return_probabilities(edges, n, 6),
        lambda edges: laplacian_positions(edges, n, 4),
    ):
        torch.testing.assert_close(positions(other), positions(graph.edge_index)[order], rtol=0, atol=1e-7)
