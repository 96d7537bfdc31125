import math

import pytest
import torch

from healnet.nn import chunked_attention as module
from healnet.nn.attention_weights import attention_weights
from healnet.nn.chunked_attention import chunked_attention

B, C = 3, 7


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("keep", [False, True])
def test_half_precision_weights_sum_to_one(dtype, keep):
    """Scores of 30 and more, whose rounding alone would move a weight by a tenth."""
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(B, 5, C, generator=generator, dtype=torch.float64)
    keys = torch.randn(B, 300, C, generator=generator, dtype=torch.float64)
    mask = torch.rand(B, 300, generator=generator) < 0.6
    mask[2] = False
    queries, keys = (5 * queries).to(dtype), keys.to(dtype)
    _, _, lse = chunked_attention(queries, keys, keys, mask)
    with torch.autocast("cpu", dtype=dtype):
        weights = attention_weights(queries, keys, lse, mask=mask, keep_rows=keep)
    assert weights.dtype == torch.float32
    total = mask.any(1).float().view(-1, *[1] * (weights.dim() - 2)).expand(weights.shape[:-1])
    torch.testing.assert_close(weights.sum(-1), total, rtol=0, atol=1e-5)
    scores = (queries.double() @ keys.double().transpose(1, 2)).masked_fill(~mask[:, None], -math.inf)
    exact = scores.softmax(-1).nan_to_num(0)
    exact = exact if keep else exact.mean(1)
    torch.testing.assert_close(weights.double(), exact, rtol=0.3, atol=0.02)


@pytest.mark.parametrize("keep", ["none", "heads", "latents", "both"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("sloped", [False, True])
def test_weights_are_those_of_the_softmax(keep, masked, sloped, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 1)
    groups, m, n = 3, 2, 150
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(B, groups * m, C, generator=generator, dtype=torch.float64)
    keys = torch.randn(B, n, C, generator=generator, dtype=torch.float64)
    mask = None
    if masked:
        mask = torch.rand(B, n, generator=generator) < 0.5
        mask[2] = False
    _, _, lse = chunked_attention(queries, keys, keys, mask)
    slope = torch.randn(B, groups * m, C, generator=generator, dtype=torch.float64) if sloped else None
    heads, latents = keep in ("heads", "both"), keep in ("latents", "both")
    got = attention_weights(
        queries, keys, lse, groups, mask, heads, latents, None if slope is None else (slope, keys)
    )
    scores = queries @ keys.transpose(1, 2)
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None], -math.inf)
    weights = scores.softmax(-1).nan_to_num(0)
    if slope is not None:
        weights = weights * (slope @ keys.transpose(1, 2))
    weights = weights.view(B, groups, m, n)
    if not latents:
        weights = weights.mean(2, keepdim=True)
    if not heads:
        weights = weights.mean(1, keepdim=True)
    expected = weights.reshape(got.shape)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-15)
    if not sloped:
        total = torch.ones(B, dtype=torch.float64) if mask is None else mask.any(1).double()
        torch.testing.assert_close(got.sum(-1), total.view(-1, *[1] * (got.dim() - 2)).expand(got.shape[:-1]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_weights_of_parts_are_those_of_the_whole(dtype):
    """A part is not raised to a sum of one, also where half precision needs that for all tokens."""
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(B, 4, C, generator=generator, dtype=torch.float64).to(dtype)
    keys = torch.randn(B, 30, C, generator=generator, dtype=torch.float64).to(dtype)
    _, _, lse = chunked_attention(queries, keys, keys)
    expected = attention_weights(queries, keys, lse)
    parts = [
        attention_weights(queries, keys[:, part], lse, whole=False) for part in (slice(0, 4), slice(4, 30))
    ]
    atol = 1e-2 * expected.max().item() if dtype == torch.bfloat16 else 1e-12
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, rtol=0, atol=atol)
    assert 0.01 < parts[0].sum(1).max() < 0.9
