"""Token-space attention against a plain formulation, in one run: `pytest tests/benchmarks/test_attention.py`.

Plain means: LayerNorm, keys and values for every token, explicit softmax, einsum; written here. Nothing gates on seconds.
"""

import copy
import statistics
import time
from dataclasses import dataclass

import pytest
import torch
from einops import rearrange

from healnet import HEALNet, Tokens
from healnet.encoders import GridEncoder
from healnet.nn.attention import CrossAttention, contraction_order

TITLE = (
    "| shape | batch | pass | order | plain s | ours s | times faster | plain extra GiB | ours extra GiB "
    "| share of matmul speed |\n|---|---|---|---|---|---|---|---|---|---|"
)


class PlainCrossAttention(CrossAttention):
    """The same weights, the obvious way."""

    def attend(self, latents, tokens, mask=None, order=None, shards=None):
        h = self.num_heads
        context = tokens * self.token_norm.weight + self.token_norm.bias
        queries = rearrange(self.to_q(self.norm(latents)), "b m (h e) -> b h m e", h=h)
        keys = rearrange(self.to_k(context), "b n (h e) -> b h n e", h=h)
        values = rearrange(self.to_v(context), "b n (h e) -> b h n e", h=h)
        scores = torch.einsum("bhme,bhne->bhmn", queries, keys) * self.head_dim**-0.5 / self.temperature
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None], -torch.inf)
        heads = torch.einsum("bhmn,bhne->bhme", scores.softmax(dim=-1), values)
        return self.to_out(rearrange(heads, "b h m e -> b m (h e)")), None


def plain(module):
    """A copy of a module or model whose cross-attention is plain."""
    module = copy.deepcopy(module)
    for part in module.modules():
        if type(part) is CrossAttention:
            part.__class__ = PlainCrossAttention
    return module


@dataclass(frozen=True)
class Shape:
    name: str
    batch: int
    n: int
    c: int
    m: int
    h: int
    e: int
    learned: bool = False  # tokens need a gradient
    plain_backward: bool = True  # fits into memory
    rounds: int = 3

    def flops(self, backward: bool) -> float:
        if contraction_order(self.m, self.c, self.e) == "token":
            products = 2 * self.h * self.m * self.n * self.c
            times = 2 + (3 if backward else 0) + (2 if backward and self.learned else 0)
            return self.batch * products * times
        project = 2 * self.n * self.c * 2 * self.h * self.e
        attend = 2 * self.h * self.m * self.n * self.e
        return self.batch * (
            project * (2 + self.learned if backward else 1) + attend * (7 if backward else 2)
        )


SHAPES = [
    Shape("volume 12x224x224x3", 1, 602112, 18, 128, 8, 64, plain_backward=False, rounds=1),
    *(
        Shape(f"tuned bag 15000x2048, m={m}, e={e}", batch, 15000, 2048, m, 1, e)
        for m, e in ((17, 16), (25, 27), (16, 63), (25, 103))
        for batch in (1, 8)
    ),
    *(Shape("CLAM bag 15000x1024", batch, 15000, 1024, 128, 8, 64) for batch in (1, 8)),
    *(Shape("20000 gene tokens", batch, 20000, 32, 128, 8, 64, learned=True) for batch in (1, 8)),
]


@pytest.fixture(scope="module")
def matmul_speed(median_seconds):
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    return 2 * 2048**3 / median_seconds(lambda: a @ b, rounds=7)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward+backward"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s.name}-b{s.batch}")
def test_one_layer(shape, backward, benchmark, matmul_speed, report, peak_memory, median_seconds):
    torch.manual_seed(0)
    ours = CrossAttention(64, shape.c, shape.h, shape.e)
    latents = torch.randn(shape.batch, shape.m, 64)
    values = torch.randn(shape.batch, shape.n, shape.c, requires_grad=shape.learned)

    def step(module):
        def run():
            with torch.set_grad_enabled(backward):
                update = module(latents, Tokens(values).standardized())
                if backward:
                    update.sum().backward()
            return update

        return run

    run, run_plain = step(ours), step(plain(ours))
    memory = peak_memory(run)
    benchmark.pedantic(run, rounds=shape.rounds + 2, warmup_rounds=1)
    seconds = statistics.median(benchmark.stats.stats.data)
    if backward and not shape.plain_backward:
        plain_seconds = plain_memory = None
    else:
        plain_memory = peak_memory(run_plain)
        plain_seconds = median_seconds(run_plain, shape.rounds)
    share = shape.flops(backward) / seconds / matmul_speed
    order = contraction_order(shape.m, shape.c, shape.e)
    report(
        TITLE,
        row(
            shape.name,
            shape.batch,
            backward,
            order,
            plain_seconds,
            seconds,
            plain_memory,
            memory,
            share,
        ),
    )


def row(name, batch, backward, order, plain_seconds, seconds, plain_memory, memory, share=None):
    def number(value, form):
        return "-" if value is None else format(value, form)

    def gib(value):
        return "-" if value is None else f"{value / 2**30:.2f}"

    ratio = None if plain_seconds is None else plain_seconds / seconds
    kind = "forward+backward" if backward else "forward"
    return (
        f"| {name} | {batch} | {kind} | {order} | {number(plain_seconds, '.3f')} | {seconds:.3f} "
        f"| {number(ratio, '.1f')} | {gib(plain_memory)} | {gib(memory)} | {number(share, '.0%')} |"
    )


@pytest.fixture(scope="module")
def readme_example():
    """A 1x2000 table, a 224x224x3 image, a 12x224x224x3 volume; 3 layers, 128 latents x 128, 8 heads x 64."""
    torch.manual_seed(0)
    encoders = {"table": GridEncoder(2000, 1), "image": GridEncoder(3, 2), "volume": GridEncoder(3, 3)}
    model = HEALNet(encoders, out_dim=4, depth=3, num_latents=128, latent_dim=128, num_heads=8, head_dim=64)
    inputs = {
        "table": torch.rand(1, 1, 2000),
        "image": torch.rand(1, 224, 224, 3),
        "volume": torch.rand(1, 12, 224, 224, 3),
    }
    return model, inputs


NAME = "README example, 3 layers"


@torch.no_grad()
def test_readme_example_forward(readme_example, benchmark, report, peak_memory):
    model, inputs = readme_example
    memory = peak_memory(lambda: model(inputs))
    benchmark.pedantic(lambda: model(inputs), rounds=3, warmup_rounds=1)
    seconds = statistics.median(benchmark.stats.stats.data)
    slow = plain(model)
    start = time.perf_counter()
    plain_memory = peak_memory(lambda: slow(inputs))
    plain_seconds = time.perf_counter() - start
    report(TITLE, row(NAME, 1, False, "token", plain_seconds, seconds, plain_memory, memory))


def test_readme_example_backward(readme_example, benchmark, report, peak_memory):
    model, inputs = readme_example

    def step():
        model(inputs).sum().backward()

    memory = peak_memory(step)
    benchmark.pedantic(step, rounds=2, warmup_rounds=0)
    seconds = statistics.median(benchmark.stats.stats.data)
    report(TITLE, row(NAME, 1, True, "token", None, seconds, None, memory))


@torch.no_grad()
def test_readme_example_trace(readme_example, benchmark, report, peak_memory, median_seconds):
    model, inputs = readme_example
    memory = peak_memory(lambda: model.trace(inputs))
    benchmark.pedantic(lambda: model.trace(inputs), rounds=3, warmup_rounds=1)
    seconds = statistics.median(benchmark.stats.stats.data)
    forward = median_seconds(lambda: model(inputs), 3)
    report(
        "| tracing | forward s | trace s | ratio | extra GiB |\n|---|---|---|---|---|",
        f"| {NAME} | {forward:.3f} | {seconds:.3f} | {seconds / forward:.2f} | {(memory or 0) / 2**30:.2f} |",
    )
