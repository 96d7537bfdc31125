import math

import pytest
import torch
import torch.nn.functional as F

from healnet.nn.torch_internals import flash_attention_cpu, function_transforms_active, fused_attention


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


def heads(seed=0, dtype=torch.float64):
    """Queries, keys and values (2, 3, m, 7), m = 5 and 11; the last axis of some is not contiguous."""
    new = {"generator": torch.Generator().manual_seed(seed), "dtype": dtype}
    queries, keys = torch.randn(2, 3, 5, 7, **new), torch.randn(2, 3, 7, 11, **new).transpose(-1, -2)
    values = torch.randn(2, 3, 11, 14, **new)[..., ::2]
    return [x.detach().requires_grad_() for x in (queries, keys, values)]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_fused_attention_and_its_gradient_are_those_of_torch(dtype, tolerance):
    inputs = heads(dtype=dtype)
    found, expected = fused_attention(*inputs), F.scaled_dot_product_attention(*inputs, scale=1.0)
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
    slope = torch.randn(2, 3, 7, 5, dtype=dtype).transpose(-1, -2)
    gradients = [torch.autograd.grad(output, inputs, slope) for output in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=10 * tolerance)


def test_fused_attention_has_a_second_derivative():
    assert torch.autograd.gradcheck(fused_attention, heads())
    assert torch.autograd.gradgradcheck(fused_attention, heads())
    one = torch.randn(1, 2, 4, 3, dtype=torch.float64, requires_grad=True)  # queries, keys and values at once
    assert torch.autograd.gradgradcheck(lambda x: fused_attention(x, x, x), (one,))


def test_fused_attention_under_function_transforms_and_with_dropout():
    inputs = [x.detach() for x in heads()]
    mapped = torch.vmap(fused_attention)(*(x.unsqueeze(0) for x in inputs))
    torch.testing.assert_close(mapped[0], fused_attention(*inputs), rtol=0, atol=1e-12)
    torch.manual_seed(0)
    assert (fused_attention(*inputs, dropout=0.999) == 0).double().mean() > 0.9
    assert fused_attention(inputs[0][:, :, :0], *inputs[1:]).shape == (2, 3, 0, 7)
