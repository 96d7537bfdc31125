import math

import torch

from healnet.nn.torch_internals import flash_attention_cpu, function_transforms_active


def test_the_fused_kernel_gives_output_and_log_sum_exp():
    generator = torch.Generator().manual_seed(0)
    queries, keys, values = (
        torch.randn(2, n, 5, generator=generator, dtype=torch.float64) for n in (3, 7, 7)
    )
    mask = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])
    output, lse = flash_attention_cpu(queries, keys, values, mask)
    scores = (queries @ keys.transpose(1, 2)).masked_fill(~mask[:, None], -math.inf)
    torch.testing.assert_close(output, scores.softmax(-1) @ values, rtol=0, atol=1e-12)
    torch.testing.assert_close(lse, scores.logsumexp(-1), rtol=0, atol=1e-12)


def test_it_says_where_it_does_not_apply():
    x = torch.zeros(2, 3, 5)
    assert flash_attention_cpu(x, x, torch.zeros(2, 3, 4), None) is None  # another width of values
    assert flash_attention_cpu(x, x[:, :0], x[:, :0], None) is None  # no tokens
    assert flash_attention_cpu(x.to("meta"), x.to("meta"), x.to("meta"), None) is None


def test_function_transforms_are_noticed():
    seen = []
    torch.vmap(lambda x: seen.append(function_transforms_active()) or x)(torch.zeros(2))
    assert seen == [True]
    assert not function_transforms_active()
