"""A group of one process; groups of several are tested with the model in tests/fusion/test_token_parallel.py."""

import copy
import math

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from healnet.nn.chunked_attention import chunked_attention
from healnet.nn.softmax import SoftmaxState
from healnet.nn.token_shards import TokenShards


@pytest.fixture
def shards(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield TokenShards(dist.group.WORLD)
    dist.destroy_process_group()


def test_a_group_of_one(shards):
    assert (shards.rank, shards.size) == (0, 1)
    x = torch.tensor([[1.0, -math.inf]], requires_grad=True)
    assert shards.maximum(x).tolist() == shards.total(x).tolist() == [[1.0, -math.inf]]
    assert not shards.maximum(x).requires_grad
    assert shards.sizes(7, torch.device("cpu")) == [7]
    assert copy.deepcopy(shards) is shards


def test_a_state_of_nothing_stays_one(shards):
    empty = SoftmaxState(torch.tensor([-math.inf]), torch.zeros(1), torch.zeros(1, 2))
    merged = shards.merge(empty)
    assert merged.output().tolist() == [[0.0, 0.0]]
    assert merged.lse().tolist() == [-math.inf]


@pytest.mark.parametrize("kept", [True, False])
def test_attention_over_one_shard_is_attention(shards, kept, monkeypatch):
    if not kept:
        monkeypatch.setattr("healnet.nn.chunked_attention.KEEP_ELEMENTS", 0)
    generator = torch.Generator().manual_seed(0)
    queries, keys = (
        torch.randn(2, n, 5, generator=generator, dtype=torch.float64, requires_grad=True) for n in (3, 7)
    )
    mask = torch.tensor([[True] * 7, [False] * 7])
    weights = torch.rand(2, 7, generator=generator, dtype=torch.float64)
    results = []
    for group in (None, shards):
        attention = chunked_attention(queries, keys, keys, mask, weights, group)
        quantity = attention.output.square().sum() + attention.mass.sum() + attention.lse[0].sum()
        results.append((tuple(attention), torch.autograd.grad(quantity, (queries, keys))))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-12)


def test_shared_parameters_are_the_same_with_their_gradient(shards):
    weight = torch.tensor([1.0, 2.0], requires_grad=True)
    (shared,) = shards.shared([weight])
    assert shared.tolist() == [1.0, 2.0]
    (3 * shared).sum().backward()
    assert weight.grad.tolist() == [3.0, 3.0]
    assert shards.shared([]) == []


def test_what_cannot_be_done_over_processes_is_refused(shards):
    x = torch.randn(1, 3, 5, requires_grad=True)
    output = chunked_attention(x, x, x, shards=shards).output
    with pytest.raises(RuntimeError, match=r"^attention over several processes can be differentiated once$"):
        torch.autograd.grad(output.sum(), x, create_graph=True)
    with pytest.raises(
        RuntimeError, match=r"^attention over several processes can be neither compiled nor transformed$"
    ):
        torch.vmap(lambda q: chunked_attention(q[None], q[None], q[None], shards=shards).output)(x)


def test_one_dimension_of_a_mesh_is_a_group(shards):
    mesh = init_device_mesh("cpu", (1, 1), mesh_dim_names=("patients", "tokens"))
    assert TokenShards(mesh["tokens"]).size == 1
    message = r"^expected a mesh of one dimension, such as mesh\['tokens'\], got 2: \('patients', 'tokens'\)$"
    with pytest.raises(ValueError, match=message):
        TokenShards(mesh)
