import pytest
import torch
from torch import nn

from healnet.baselines import _transformer as transformer


def test_attention_is_pytorchs():
    torch.manual_seed(0)
    ours, theirs = (
        transformer.MaskedAttention(6, 3).double(),
        nn.MultiheadAttention(6, 3, batch_first=True).double(),
    )
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([m.weight for m in (ours.to_q, ours.to_k, ours.to_v)]))
        theirs.in_proj_bias.copy_(torch.cat([m.bias for m in (ours.to_q, ours.to_k, ours.to_v)]))
        theirs.out_proj.load_state_dict(ours.to_out.state_dict())
    queries, keys = torch.randn(2, 4, 6, dtype=torch.float64), torch.randn(2, 5, 6, dtype=torch.float64)
    mask = torch.tensor([[True, True, False, True, False], [True] * 5])
    expected, _ = theirs(queries, keys, keys, key_padding_mask=~mask)
    torch.testing.assert_close(ours(queries, keys, mask), expected, rtol=0, atol=1e-12)


def test_a_block_is_pytorchs_encoder_layer():
    torch.manual_seed(0)
    ours = transformer.TransformerBlock(6, 2, 0.0).double()
    theirs = nn.TransformerEncoderLayer(6, 2, 12, 0.0, batch_first=True).double()
    attention = ours.attention
    with torch.no_grad():
        parts = (attention.to_q, attention.to_k, attention.to_v)
        theirs.self_attn.in_proj_weight.copy_(torch.cat([m.weight for m in parts]))
        theirs.self_attn.in_proj_bias.copy_(torch.cat([m.bias for m in parts]))
        theirs.self_attn.out_proj.load_state_dict(attention.to_out.state_dict())
        theirs.linear1.load_state_dict(ours.feed_forward[0].state_dict())
        theirs.linear2.load_state_dict(ours.feed_forward[3].state_dict())
        for norm in (*ours.norms, theirs.norm1, theirs.norm2):
            norm.weight.copy_(torch.linspace(0.5, 2, 6))
    tokens = torch.randn(2, 5, 6, dtype=torch.float64)
    mask = torch.tensor([[True, True, False, True, False], [True] * 5])
    expected = theirs(tokens, src_key_padding_mask=~mask)
    torch.testing.assert_close(ours(tokens, mask)[mask], expected[mask], rtol=0, atol=1e-12)


def test_nothing_to_attend_to_gives_the_bias():
    attention = transformer.MaskedAttention(4, 2)
    got = attention(torch.randn(1, 3, 4), torch.randn(1, 2, 4), torch.zeros(1, 2, dtype=torch.bool))
    torch.testing.assert_close(got, attention.to_out.bias.expand(1, 3, 4))


def test_heads_share_the_width():
    with pytest.raises(ValueError, match=r"^expected dim to be a multiple of num_heads=4, got 6$"):
        transformer.MaskedAttention(6, 4)
