import itertools
import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from healnet.nn.chunked_attention import Attention, chunked_attention
from healnet.nn.softmax import SoftmaxState

B, R, N, C, V = 3, 5, 11, 7, 2


@settings(max_examples=25, deadline=None)
@given(
    cuts=st.lists(st.integers(0, N), max_size=4),
    order=st.randoms(use_true_random=False),
    masked=st.booleans(),
)
def test_states_over_parts_merge_to_the_whole(cuts, order, masked):
    generator = torch.Generator().manual_seed(order.randint(0, 1000))
    queries, keys, values = (
        torch.randn(B, *shape, generator=generator, dtype=torch.float64) for shape in ((R, C), (N, C), (N, V))
    )
    mask = torch.rand(B, N, generator=generator) < 0.6 if masked else None
    weights = torch.rand(B, N, generator=generator, dtype=torch.float64)
    edges = [0, *sorted(cuts), N]
    parts = [slice(a, b) for a, b in itertools.pairwise(edges)]
    order.shuffle(parts)
    state = None
    for part in parts:
        new = chunked_attention(
            queries,
            keys[:, part],
            values[:, part],
            None if mask is None else mask[:, part],
            weights[:, part],
        ).state()
        state = new if state is None else state.merge(new)
    scores = queries @ keys.transpose(1, 2)
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None], -math.inf)
    kept = scores.softmax(-1).nan_to_num(0) * weights[:, None]
    expected = (kept @ values, kept.sum(-1), scores.logsumexp(-1))
    torch.testing.assert_close(tuple(Attention.of_state(state, torch.float64)), expected, rtol=0, atol=1e-12)


def test_empty_states_merge_to_an_empty_state():
    empty = SoftmaxState(torch.tensor([-math.inf]), torch.zeros(1), torch.zeros(1, 2))
    merged = empty.merge(empty)
    assert merged.output().tolist() == [[0.0, 0.0]]
    assert merged.lse().tolist() == [-math.inf]
