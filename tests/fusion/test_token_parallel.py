"""One patient's tokens split over gloo processes, against one process with all of them."""

import pytest
import torch
from torch import nn

from healnet import HEALNet, Masked, PatchBag, Pieces, Stream, TimeSeries
from healnet.encoders import GridEncoder, LearnedEncoder, OmicEncoder, PatchEncoder, SequenceEncoder
from healnet.explain import attention_scores, gradient_x_input
from healnet.inputs import take

WORKER = """
import os, sys, torch, torch.distributed as dist
from torch import nn
from healnet import HEALNet
from healnet.encoders import LearnedEncoder
from healnet.nn.attention import CrossAttention
from healnet.nn.streamed_attention import streamed_attention
from healnet.nn.token_shards import TokenShards
sys.path.insert(0, sys.argv[4])
from test_token_parallel import SPLITS, build, gradients_of, inputs, part
folder, rank, world = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
results = {}
for name, split in SPLITS[world].items():
    for chunked in (False, True):
        results[name, chunked] = gradients_of(build(token_group=dist.group.WORLD), part(inputs(), split, rank), chunked)
if world == 2:
    own = part(inputs(), SPLITS[2]["uneven"], rank)
    model = build(token_group=dist.group.WORLD, attention_dropout=0.5, ff_dropout=0.5).train()
    torch.manual_seed(100 + rank)
    results["dropout"] = model(own)
    for change in ({"slide": None}, {"rna": own["rna"][:2]}):
        try:
            model({**own, **(change if rank else {})})
        except ValueError as error:
            results[tuple(change)] = str(error)
    torch.manual_seed(0)  # the same in both processes, as scripts do
    shards, bag = TokenShards(dist.group.WORLD), torch.ones(1, 40, 3)
    encoding = HEALNet({"bag": LearnedEncoder(nn.Dropout(0.5), 3)}, token_group=dist.group.WORLD).train()
    attended = CrossAttention(4, 3, dropout=0.5).train().attend(torch.ones(1, 2, 4), bag, shards=shards)[1]
    results["drawn"] = encoding.encode({"bag": bag})["bag"].values, attended.token_weights
    walk = lambda: iter([(torch.ones(1, 40, 1) * (1 - 2 * rank), None)])
    results["streamed"] = streamed_attention(torch.zeros(1, 1, 1), walk, dropout=0.5, shards=shards)[0].item()
if world == 4:  # two patients' halves of the batch, times two parts of their tokens
    from torch.distributed.device_mesh import init_device_mesh
    from torch.nn.parallel import DistributedDataParallel
    from healnet.inputs import take
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("patients", "tokens"))
    model = build(token_group=mesh["tokens"]).train()
    wrapped = DistributedDataParallel(model, process_group=mesh["patients"].get_group())
    row, column = mesh.get_coordinate()
    patients = [torch.tensor([0]), torch.tensor([1, 2])][row]
    own = part(inputs(), SPLITS[2]["uneven"], column)
    output = wrapped({name: take(x, patients) for name, x in own.items()})
    (output.square().sum() * 2).backward()  # averaged over the two
    results["mesh"] = {name: p.grad for name, p in model.named_parameters()}
torch.save(results, f"{folder}/result{rank}.pt")
dist.destroy_process_group()
os._exit(0)  # Python aborts if a thread of gloo still holds a tensor while it ends
"""

STREAM_WORKER = """
import os, sys, torch, torch.distributed as dist
from healnet import Pieces, Stream
sys.path.insert(0, sys.argv[4])
from test_token_parallel import BLOCKS, build, gradients_of, in_pieces, inputs
folder, rank, world = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
results = {}
for block in BLOCKS:
    own = {name: stream.part(rank, world) for name, stream in in_pieces(block).items()}
    results[block] = gradients_of(build(token_group=dist.group.WORLD, checkpoint_layers=[1]), own)
if world == 2:
    whole = in_pieces(3)
    own = {name: stream.part(rank, world) for name, stream in whole.items()}
    model = build(token_group=dist.group.WORLD, attention_dropout=0.5, ff_dropout=0.5).train()
    torch.manual_seed(100 + rank)
    results["dropout"] = model(own)
    first = inputs()["slide"].features[0, :5]
    wrong = {
        "whole": whole["slide"],
        "other": Stream([Pieces(first, (3,), coords=torch.zeros(5, 2)), *own["slide"].patients[1:]]),
        "absent": own["slide"].hide(torch.tensor([rank == 0, False, False])),
        "memory": inputs()["slide"] if rank else own["slide"],
    }
    four = Stream([Pieces(first[:4], (1,), coords=torch.zeros(4, 2))] * 3)
    wrong["twice"] = four.part(0, 2)
    for name, slide in wrong.items():
        try:
            model({**own, "slide": slide})
        except ValueError as error:
            results[name] = str(error)
torch.save(results, f"{folder}/result{rank}.pt")
dist.destroy_process_group()
os._exit(0)  # Python aborts if a thread of gloo still holds a tensor while it ends
"""

N = 11
# Elements of a block along each axis. With 11 each patient has one block, and the other processes none.
BLOCKS = (1, 2, 4, 11)
# The first token of each process's part, of 11 patches, steps or rows; a table is given whole to every process.
SPLITS = {
    2: {"uneven": [0, 3, N], "all in the first": [0, N, N], "all in the last": [0, 0, N]},
    3: {"ragged": [0, 1, 7, N], "one has none": [0, 4, 4, N]},
    4: {},
}


def inputs():
    """Three patients; the second lacks the slide, the third has two slides and a narrow volume."""
    generator = torch.Generator().manual_seed(5)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    mask = torch.arange(N) < torch.tensor([[N], [0], [9]])
    coords = torch.randint(0, 5000, (3, N, 3), generator=generator)
    coords[..., 2] = torch.arange(N) // 5 * torch.tensor([[0], [0], [1]])
    real = torch.ones(3, N, 2, 3, dtype=torch.bool)
    real[2, 7:] = False
    real[2, :, :, 2:] = False
    return {
        "rna": normal(3, 6),
        "slide": PatchBag(normal(3, N, 4), coords, mask),
        "ct": Masked(normal(3, N, 2, 3, 2), real),
        "vitals": TimeSeries(normal(3, N, 2), normal(3, N).abs().cumsum(1), normal(3, N, 2) > -1),
        "learned": normal(3, N, 5),
    }


def part(whole, split, rank):
    """The part of one process: a slice of the first axis behind the patients."""
    rows = slice(split[rank], split[rank + 1])
    found = {"rna": whole["rna"], "learned": whole["learned"][:, rows]}
    for name in ("slide", "ct", "vitals"):
        found[name] = type(whole[name])(*(x[:, rows] for x in whole[name]))
    return found


def in_pieces(block):
    """A table, the slides and the volumes of the same patients, to be read in blocks."""
    whole = inputs()
    slides = zip(*whole["slide"], strict=True)
    scans = zip(*whole["ct"], strict=True)
    return {
        "genes": Stream([Pieces(row, (block,)) for row in whole["rna"]]),
        "slide": Stream(
            [
                Pieces(features, (block,), mask, coords) if mask.any() else None
                for features, coords, mask in slides
            ]
        ),
        "ct": Stream([Pieces(scan, (block, 2, block), mask) for scan, mask in scans]),
    }


def build(**arguments):
    torch.manual_seed(0)
    encoders = {
        "rna": OmicEncoder(6, tokens=2, token_dim=3),
        "genes": OmicEncoder(6, token_dim=3),
        "slide": PatchEncoder(4, slide_position=True),
        "ct": GridEncoder(2, 3, spacing=(2.0, 1.0, 1.0)),
        "vitals": SequenceEncoder(2),
        "learned": LearnedEncoder(nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4)), 4),
    }
    sizes = {"num_latents": 3, "latent_dim": 8, "num_heads": 2, "head_dim": 5, "out_dim": 2}
    return HEALNet(encoders, **sizes | arguments).double()


def gradients_of(model, own, chunked=False):
    """Output, attention to the own tokens, and the gradient of every parameter."""
    from healnet.nn import chunked_attention

    kept = chunked_attention.KEEP_ELEMENTS
    chunked_attention.KEEP_ELEMENTS = 0 if chunked else kept
    output = model.train()(own)
    output.square().sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    if "genes" in own:
        risk = lambda output: output[:, 0] - 2 * output[:, 1]  # noqa: E731
        trace = attention_scores(model, own, risk=risk)
        trace |= {
            f"raw {name}": x for name, x in gradient_x_input(model, own, risk=risk, per_token=True).items()
        }
    else:
        trace = {name: x.clone() for name, x in model.eval().trace(own)[1].items()}
    chunked_attention.KEEP_ELEMENTS = kept
    return output.detach(), trace, gradients


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_any_split_gives_what_one_process_gives(world, tmp_path, run):
    results = run(WORKER, world, tmp_path)
    output, trace, gradients = gradients_of(build(), inputs())
    for name, split in SPLITS[world].items():
        for chunked in (False, True):
            for rank, result in enumerate(results):
                theirs, own_trace, own_gradients = result[name, chunked]
                torch.testing.assert_close(theirs, output, rtol=0, atol=1e-10)
                for parameter, gradient in gradients.items():
                    torch.testing.assert_close(
                        own_gradients[parameter],
                        gradient,
                        rtol=0,
                        atol=1e-10,
                        msg=lambda m, where=(name, chunked, rank, parameter): f"{where}: {m}",
                    )
                rows = slice(split[rank], split[rank + 1])
                torch.testing.assert_close(own_trace["slide"], trace["slide"][..., rows], rtol=0, atol=1e-10)
                volume = trace["ct"].unflatten(-1, (N, 2, 3))[:, :, rows].flatten(2)
                torch.testing.assert_close(own_trace["ct"], volume, rtol=0, atol=1e-10)
                # A table that every process has counts once: each has its share of the attention.
                torch.testing.assert_close(world * own_trace["rna"], trace["rna"], rtol=0, atol=1e-10)
    if world == 2:
        first, second = (result["dropout"] for result in results)
        torch.testing.assert_close(first, second, rtol=0, atol=1e-12)
        assert (first - output).abs().max() > 1e-3
        for first, second in zip(*(result["drawn"] for result in results), strict=True):
            assert 0.1 < (first == 0).double().mean() < 0.9
            assert not torch.equal(first == 0, second == 0)  # each process drops others of its tokens
        first, second = (result["streamed"] for result in results)
        assert first == second
        assert abs(first) > 0.01  # tokens of 1 and of -1: zero if both dropped the same
        missing = "modality 'slide': expected an input of every process of the token group, without elements where it has "
        other = "expected the same patients in every process of the token group, got [3, 2] of them"
        for result in results:
            assert result["slide",] == missing + "no tokens, got one of 1 of 2 processes"
            assert result["rna",] == other


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_parts_of_a_stream_give_what_one_process_gives(world, tmp_path, run):
    results = run(STREAM_WORKER, world, tmp_path)
    for block in BLOCKS:
        output, scores, gradients = gradients_of(build(), in_pieces(block))
        assert set(scores) == {"genes", "slide", "ct", "raw genes", "raw slide", "raw ct"}
        for name, score in scores.items():  # each process has those of its own blocks, and zeros
            theirs = sum(result[block][1][name] for result in results)
            torch.testing.assert_close(theirs, score, rtol=0, atol=1e-10)
            assert score.abs().max() > 1e-4
        for rank, result in enumerate(results):
            theirs, _, own_gradients = result[block]
            torch.testing.assert_close(theirs, output, rtol=0, atol=1e-10)
            for parameter, gradient in gradients.items():
                torch.testing.assert_close(
                    own_gradients[parameter],
                    gradient,
                    rtol=0,
                    atol=1e-10,
                    msg=lambda m, where=(block, rank, parameter): f"{where}: {m}",
                )
    if world == 2:
        first, second = (result["dropout"] for result in results)
        torch.testing.assert_close(first, second, rtol=0, atol=1e-12)
        assert (first - output).abs().max() > 1e-3
        own = "modality 'slide': expected every process's own part of the same pieces of patient 0, such as "
        messages = {
            "whole": own
            + "stream.part(rank, 2), got 22 elements in all parts of 2 wholes, the largest of 11",
            "other": own + "stream.part(rank, 2), got 10 elements in all parts of 2 wholes, the largest of 5",
            "absent": own
            + "stream.part(rank, 2), got 5 elements in all parts of 1 wholes, the largest of 11",
            "twice": own
            + "stream.part(rank, 2), got 4 elements in all parts of 2 wholes, the largest of 4, some of them twice",
            "memory": "modality 'slide': expected a Stream of every process of the token group or of none, "
            "got one of 1 of 2 processes",
        }
        for name, message in messages.items():
            assert {result[name] for result in results} == {message}


@pytest.mark.slow
def test_it_composes_with_data_parallelism_over_patients(tmp_path, run):
    results = run(WORKER, 4, tmp_path)
    model = build().train()
    patients = torch.tensor([0, 1, 2])
    model({name: take(x, patients) for name, x in inputs().items()}).square().sum().backward()
    for result in results:
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(result["mesh"][name], parameter.grad, rtol=0, atol=1e-10)
