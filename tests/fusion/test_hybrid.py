import math

import pytest
import torch

from healnet import Tokens
from healnet.fusion import HybridFusionLayer
from healnet.testing import check_fusion_layer

DIMS = {"rna": 3, "slide": 7, "ct": 2}
D, M, B, N = 11, 5, 3, 13


@pytest.mark.parametrize("self_attention", [0, 1, 2])
@pytest.mark.parametrize("head_dim", [1, 200], ids=["projected", "token space"])
def test_the_laws(self_attention, head_dim):
    torch.manual_seed(0)
    layer = HybridFusionLayer(D, DIMS, num_heads=2, head_dim=head_dim, self_attention=self_attention)
    check_fusion_layer(layer, D, DIMS)


def test_the_laws_hold_with_chunks(monkeypatch):
    from healnet.nn import chunked_attention

    monkeypatch.setattr(chunked_attention, "KEEP_ELEMENTS", 0)
    monkeypatch.setattr(chunked_attention, "CHUNK_ELEMENTS", 1)
    torch.manual_seed(0)
    check_fusion_layer(HybridFusionLayer(D, DIMS, num_heads=2, head_dim=50), D, DIMS, num_tokens=150)
    monkeypatch.setattr(chunked_attention, "flash_attention_cpu", lambda *_: None)
    check_fusion_layer(HybridFusionLayer(D, DIMS, num_heads=2, head_dim=50), D, DIMS, num_tokens=150)


def tokens_of(mask=None):
    generator = torch.Generator().manual_seed(0)
    return {
        name: Tokens(torch.randn(B, N, c, generator=generator, dtype=torch.float64), mask)
        for name, c in DIMS.items()
    }


def test_the_equations_by_hand():
    """S <- S + CA(LN S, LN X); S <- S + FF(LN S); S <- S + SA(LN S); S <- S + FF(LN S), modality by modality."""
    torch.manual_seed(0)
    layer = HybridFusionLayer(D, DIMS, num_heads=2, head_dim=3, self_attention=2).double()
    latents, tokens = torch.randn(B, M, D, dtype=torch.float64), tokens_of()
    got = layer(latents, tokens)
    for name, x in tokens.items():
        latents = latents + layer.cross_attention[name](latents, x.standardized())
        latents = latents + layer.feed_forward[name](latents)
        for attention, feed_forward in zip(layer.self_attention, layer.self_feed_forward, strict=True):
            latents = latents + attention(latents)
            latents = latents + feed_forward(latents)
    torch.testing.assert_close(got, latents, rtol=0, atol=0)


def test_the_absent_keep_their_latents_bit_for_bit():
    layer = HybridFusionLayer(D, DIMS).double()
    mask = torch.tensor([[True] * N, [False] * N, [True] * N])
    latents = torch.randn(B, M, D, dtype=torch.float64)
    got = layer(latents, tokens_of(mask))
    assert torch.equal(got[1], latents[1])
    assert not torch.equal(got[0], latents[0])


@pytest.mark.parametrize("mask", [None, torch.ones(B, 0, dtype=torch.bool)])
def test_a_modality_without_tokens_is_absent(mask):
    layer = HybridFusionLayer(D, DIMS).double()
    latents = torch.randn(B, M, D, dtype=torch.float64)
    nothing = {"rna": Tokens(torch.zeros(B, 0, 3, dtype=torch.float64), mask)}
    assert torch.equal(layer(latents, nothing), latents)


def test_the_order_of_modalities_is_that_of_the_layer_not_of_the_tokens():
    torch.manual_seed(0)
    layer = HybridFusionLayer(D, DIMS).double()
    latents, tokens = torch.randn(B, M, D, dtype=torch.float64), tokens_of()
    swapped = dict(reversed(tokens.items()))
    torch.testing.assert_close(layer(latents, swapped), layer(latents, tokens), rtol=0, atol=0)
    other = HybridFusionLayer(D, dict(reversed(DIMS.items()))).double()
    other.load_state_dict(layer.state_dict())
    assert (other(latents, tokens) - layer(latents, tokens)).abs().max() > 1e-4


def test_infinite_updates_of_the_absent_do_not_spread():
    """0 * inf would be NaN."""
    layer = HybridFusionLayer(D, {"rna": 3}, self_attention=0).double()
    with torch.no_grad():
        layer.cross_attention["rna"].to_out.bias.fill_(math.inf)
    tokens = {"rna": Tokens(torch.randn(2, 1, 3, dtype=torch.float64), torch.tensor([[True], [False]]))}
    latents = torch.randn(2, M, D, dtype=torch.float64)
    assert torch.equal(layer(latents, tokens)[1], latents[1])


def test_self_attention_when_absent():
    torch.manual_seed(0)
    layer = HybridFusionLayer(D, {"rna": 3}, self_attention_when_absent=True).double()
    latents = torch.randn(2, M, D, dtype=torch.float64)
    expected = latents + layer.self_attention[0](latents)
    expected = expected + layer.self_feed_forward[0](expected)
    torch.testing.assert_close(layer(latents, {}), expected, rtol=0, atol=0)
    nobody = {"rna": Tokens(torch.zeros(2, 1, 3).double(), torch.zeros(2, 1, dtype=torch.bool))}
    torch.testing.assert_close(layer(latents, nobody), expected, rtol=0, atol=0)


def test_self_attention_has_heads_of_its_own():
    layer = HybridFusionLayer(D, {"rna": 3}, num_heads=2, head_dim=7, self_num_heads=3, self_head_dim=5)
    attention = layer.self_attention[0]
    assert (attention.num_heads, attention.to_out.in_features) == (3, 15)
    assert layer.cross_attention["rna"].to_out.in_features == 14
    default = HybridFusionLayer(D, {"rna": 3}, num_heads=2, head_dim=7).self_attention[0]
    assert (default.num_heads, default.to_out.in_features) == (2, 14)


def test_sizes_are_given_by_name():
    with pytest.raises(TypeError, match=r"takes 3 positional arguments but 4 were given"):
        HybridFusionLayer(D, {"rna": 3}, 2)
