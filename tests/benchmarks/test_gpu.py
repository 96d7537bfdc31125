"""Token-space attention on a GPU, plain and fused by torch too: `pytest tests/benchmarks/test_gpu.py`.

Not measured so far, for want of a GPU; README, "On a GPU", says what arithmetic expects. The question to answer is where the
chunks of `healnet.nn.chunked_attention` should give way to `scaled_dot_product_attention`, which returns no log-sum-exp and
takes a tile of queries at a time: the 1,024 queries of one patient are 8 tiles of 128, for the 132 processors of an H100.
HEALNET_BENCH_GPU=cpu runs small shapes on a CPU.
"""

import os
import statistics
import time

import pytest
import torch
import torch.nn.functional as F

from healnet.nn.chunked_attention import chunked_attention

DEVICE = os.environ.get("HEALNET_BENCH_GPU", "cuda")
pytestmark = pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="no GPU")
TITLE = (
    "| tokens x width, queries | batch | type | pass | how | ms | million tokens a second | extra GiB |\n"
    "|---|---|---|---|---|---|---|---|"
)
SCALE = 1 if DEVICE == "cuda" else 100
# Tokens, width and queries (heads x latents) of the benchmark shapes of test_attention.py in token space.
SHAPES = [
    (602_112, 18, 1024),
    (150_528, 18, 1024),
    (20_000, 32, 1024),
    (15_000, 2048, 25),
    (15_000, 1024, 128),
]


def chunks(queries, tokens):
    return chunked_attention(queries, tokens, tokens).output


def plain(queries, tokens):
    return (queries @ tokens.transpose(1, 2)).softmax(dim=-1) @ tokens


def fused(queries, tokens):
    q, x = queries.unsqueeze(1), tokens.unsqueeze(1)
    return F.scaled_dot_product_attention(q, x, x, scale=1.0).squeeze(1)


def synchronize():
    if DEVICE == "cuda":
        torch.cuda.synchronize()


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward+backward"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_one_attention(shape, batch, dtype, backward, report):
    n, width, rows = shape[0] // SCALE, *shape[1:]
    torch.manual_seed(0)
    queries = (torch.randn(batch, rows, width, device=DEVICE) / width**0.5).to(dtype).requires_grad_(backward)
    tokens = torch.randn(batch, n, width, device=DEVICE).to(dtype)
    expected = chunks(queries[:, :4], tokens).detach()
    for attend in (chunks, fused, plain):
        if attend is plain and 8 * batch * n * rows > 2**34:
            continue  # its scores would not fit

        def step(attend=attend):
            output = attend(queries, tokens)
            if backward:
                torch.autograd.grad(output.float().square().sum(), queries)
            return output.detach()

        torch.testing.assert_close(step()[:, :4], expected, rtol=0.05, atol=0.05)
        if DEVICE == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        times = []
        for _ in range(5):
            synchronize()
            start = time.perf_counter()
            step()
            synchronize()
            times.append(time.perf_counter() - start)
        seconds = statistics.median(times)
        memory = f"{(torch.cuda.max_memory_allocated() - before) / 2**30:.2f}" if DEVICE == "cuda" else "-"
        report(
            TITLE,
            f"| {n:,} x {width}, {rows} | {batch} | {dtype} | {'forward+backward' if backward else 'forward'} "
            f"| {attend.__name__} | {1e3 * seconds:.2f} | {batch * n / seconds / 1e6:.1f} | {memory} |",
        )
