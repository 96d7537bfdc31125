import copy
import io
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from healnet import HEALNet, Masked, PatchBag, Tokens
from healnet.encoders import ModalityEncoder, OmicEncoder, PatchEncoder
from healnet.testing import check_model

WIDTHS = {"clinical": 5, "rna": 13, "protein": 7}
SIZES = {"num_latents": 4, "latent_dim": 12, "num_heads": 2, "head_dim": 3}


def build(tokens=3, **sizes):
    torch.manual_seed(0)
    encoders = {name: OmicEncoder(f, tokens=tokens, token_dim=6) for name, f in WIDTHS.items()}
    return HEALNet(encoders, **{"out_dim": 2} | SIZES | sizes)


def batch_of(b, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(b, f, generator=generator).to(dtype) for name, f in WIDTHS.items()}


@pytest.mark.parametrize("tokens", ["features", "vector", 3])
@pytest.mark.parametrize(
    "sizes", [{}, {"tie_layers": True, "depth": 3}, {"self_attention": 0}, {"gate": "gelu"}]
)
def test_the_laws(tokens, sizes):
    check_model(build(tokens, **sizes), batch_of(5))


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_pattern_of_absence_gives_what_each_patient_gives_alone(data):
    model = build("features").double().eval()
    inputs = batch_of(4, dtype=torch.float64)
    masks = {
        name: torch.tensor(
            data.draw(st.lists(st.lists(st.booleans(), min_size=f, max_size=f), min_size=4, max_size=4))
        )
        for name, f in WIDTHS.items()
    }
    together = model({name: Masked(x, masks[name]) for name, x in inputs.items()})
    assert torch.isfinite(together).all()
    for row in range(4):
        alone = {
            name: Masked(x[row : row + 1], masks[name][row : row + 1])
            for name, x in inputs.items()
            if masks[name][row].any()
        }
        torch.testing.assert_close(together[row : row + 1], model(alone), rtol=0, atol=1e-10)


@pytest.mark.parametrize("training", [False, True])
def test_gradients_are_finite_and_zero_for_the_absent(training):
    model = build()
    model.train(training)
    inputs = {name: x.requires_grad_() for name, x in batch_of(3).items()}
    hidden = {name: Masked(x, torch.tensor([True, False, name == "rna"])) for name, x in inputs.items()}
    model(hidden).sum().backward()
    for name, x in inputs.items():
        assert torch.isfinite(x.grad).all()
        assert (x.grad[1] == 0).all()
        assert (x.grad[0] != 0).any()
        assert (x.grad[2] != 0).any() == (name == "rna")
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_nobody_has_anything():
    model = build()
    assert torch.equal(model({}), model({"rna": None}))
    torch.testing.assert_close(model({}), model.head(model.latents[None]))
    nothing = {name: Masked(x, torch.zeros(3, dtype=torch.bool)) for name, x in batch_of(3).items()}
    torch.testing.assert_close(model(nothing), model({}).expand(3, -1))


def test_fuse_then_head_is_forward():
    model, inputs = build(), batch_of(3)
    latents = model.fuse(inputs)
    assert latents.shape == (3, 4, 12)
    torch.testing.assert_close(model.head(latents), model(inputs))
    expected = model.head.linear(model.head.norm(latents.mean(1)))
    torch.testing.assert_close(model(inputs), expected)


@pytest.mark.parametrize("tie_layers", [False, True])
def test_saving_loading_and_copying(tie_layers):
    model, inputs = build(tie_layers=tie_layers), batch_of(3)
    expected = model(inputs)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    loaded = build(tie_layers=tie_layers)
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.add_(1)
    assert not torch.allclose(loaded(inputs), expected)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(loaded(inputs), expected)
    copied = copy.deepcopy(model)
    assert torch.equal(copied(inputs), expected)
    assert len(set(copied.layers)) == (1 if tie_layers else 2)
    with torch.no_grad():
        copied.latents.add_(1)
    assert torch.equal(model(inputs), expected)


def test_every_argument_reaches_its_part():
    model = build(temperature=0.5, attention_dropout=0.1, ff_dropout=0.2, ff_mult=5, gate="gelu")
    for layer in model.layers:
        for attention in (*layer.cross_attention.values(), *layer.self_attention):
            assert (attention.temperature, attention.head_dim) == (0.5, 3)
            assert (attention.dropout, attention.num_heads) == (0.1, 2)
        for _, block in (*layer.feed_forward.values(), *layer.self_feed_forward):
            assert (block.dropout.p, block.gate, block.contract.in_features) == (0.2, "gelu", 60)


def test_tied_layers_share_every_weight():
    tied, single = build(tie_layers=True, depth=5), build(depth=1)
    assert sum(p.numel() for p in tied.parameters()) == sum(p.numel() for p in single.parameters())


def test_half_precision_features_in_a_double_model():
    model = build("vector").double()
    inputs = batch_of(2)
    half = {name: x.half() for name, x in inputs.items()}
    expected = model({name: x.half().double() for name, x in inputs.items()})
    torch.testing.assert_close(model(half), expected, rtol=0, atol=1e-12)


@pytest.mark.filterwarnings(
    "ignore:Guards may run slower on Python 3.13.0"
)  # says torch, of that release alone
@pytest.mark.slow
@pytest.mark.parametrize("tokens", ["features", 3])
def test_compiled_in_one_graph_gives_the_same(tokens):
    """`aot_eager` traces forward and backward like the default backend and needs no C++ compiler."""
    model = build(tokens)
    inputs = batch_of(3)
    inputs["rna"] = Masked(inputs["rna"], torch.tensor([True, False, True]))
    expected = model(inputs)
    expected.square().sum().backward()
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    got = compiled(inputs)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    got.square().sum().backward()
    for p, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-4, atol=1e-5)


def test_autocast_agrees_with_full_precision():
    model, inputs = build(), batch_of(4)
    expected = model(inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = model(inputs)
        got.float().sum().backward()
    torch.testing.assert_close(got.float(), expected, rtol=0, atol=0.1)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_under_autocast_all_layers_share_one_copy_of_the_tokens():
    model = build()
    tokens = model.encode(batch_of(4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for layer in model.layers:
            layer(model.latents.expand(4, -1, -1), tokens)
    for x in tokens.values():
        assert list(x.__dict__["_standardized"]) == [torch.bfloat16]


def test_shapes_are_worked_out_without_numbers():
    model = build("features").to("meta")
    inputs = {name: x.to("meta") for name, x in batch_of(3).items()}
    inputs["rna"] = Masked(inputs["rna"], torch.ones(3, dtype=torch.bool, device="meta"))
    assert model(inputs).shape == (3, 2)


def test_gradients_of_single_patients_by_function_transforms():
    model, inputs = build().double(), batch_of(3, dtype=torch.float64)
    mask = torch.tensor([True, False, True])
    parameters = dict(model.named_parameters())

    def loss(parameters, clinical, rna, has_rna):
        inputs = {"clinical": clinical[None], "rna": Masked(rna[None], has_rna[None])}
        return torch.func.functional_call(model, parameters, (inputs,)).square().sum()

    # torch has no batching rule for its fused self-attention, and warns that it is slow.
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        single = torch.vmap(torch.func.grad(loss), in_dims=(None, 0, 0, 0))(
            parameters, inputs["clinical"], inputs["rna"], mask
        )
    model({"clinical": inputs["clinical"], "rna": Masked(inputs["rna"], mask)}).square().sum().backward()
    for name, parameter in parameters.items():
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(single[name].sum(0), expected, rtol=0, atol=1e-10)


def test_an_empty_batch_gives_an_empty_output():
    inputs = {name: x[:0] for name, x in batch_of(3).items()}
    output, trace = build("features").trace(inputs)
    assert output.shape == (0, 2)
    assert trace["rna"].shape == (2, 0, 13)


@pytest.mark.parametrize("inputs", [torch.zeros(3, 5), [torch.zeros(3, 5)]])
def test_inputs_without_names_are_refused(inputs):
    message = f"expected a mapping from modality to input, got {type(inputs).__name__}"
    with pytest.raises(ValueError, match=f"^{message}$"):
        build()(inputs)


class Wrong(ModalityEncoder):
    """Returns something else than it promises."""

    token_dim = 3

    def __init__(self, result):
        super().__init__()
        self.result = result

    def forward(self, inputs):
        return self.result


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"ct": torch.zeros(3, 2)},
            "unknown modality 'ct': this model's modalities are ['clinical', 'rna', 'protein']",
        ),
        ({"rna": torch.zeros(3, 12)}, "modality 'rna': expected a shape of (b, 13), got (3, 12)"),
        ({"rna": torch.zeros(3, 1, 13)}, "modality 'rna': expected a shape of (b, 13), got (3, 1, 13)"),
        (
            {"protein": torch.zeros(4, 7)},
            "modality 'protein': expected a batch of 3 patients as in modality 'clinical', got 4",
        ),
        ({"rna": [1.0]}, "modality 'rna': expected a tensor or Masked(values, mask), got list"),
        (
            {"rna": Masked(torch.zeros(3, 13), torch.ones(3))},
            "modality 'rna': expected a bool mask (True = real), got torch.float32",
        ),
        (
            {"rna": Masked(torch.zeros(3, 13), torch.ones(3, 2, dtype=torch.bool))},
            "modality 'rna': expected a mask of shape (3,) or (3, 13), got (3, 2)",
        ),
        (
            {"rna": Masked(torch.zeros(3, 13), None)},
            "modality 'rna': expected Masked to hold two tensors, got NoneType",
        ),
    ],
)
def test_bad_input_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build()(batch_of(3) | change)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (torch.zeros(2, 1, 3), "modality 'x': expected its encoder to return Tokens, got Tensor"),
        (
            Tokens(torch.zeros(2, 1, 4)),
            "modality 'x': expected tokens of width 3 (its encoder's token_dim), got 4",
        ),
    ],
)
def test_an_encoder_that_breaks_its_promise_is_named(result, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        HEALNet({"x": Wrong(result)})({"x": 0})


@pytest.mark.parametrize(
    ("encoders", "message"),
    [
        ({}, "expected at least one encoder, got none"),
        ({"rna": torch.nn.Linear(2, 2)}, "modality 'rna': expected a ModalityEncoder, got Linear"),
        (
            {"a.b": OmicEncoder(2)},
            "modality 'a.b': expected a name without dots that is not a method of ModuleDict",
        ),
        (
            {"items": OmicEncoder(2)},
            "modality 'items': expected a name without dots that is not a method of ModuleDict",
        ),
    ],
)
def test_bad_encoders_are_refused_by_name(encoders, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        HEALNet(encoders)


@pytest.mark.parametrize("checkpoint_layers", [True, (1,)])
@pytest.mark.parametrize("tokens", ["features", 3])
def test_checkpointed_layers_run_twice_and_give_the_same_gradients(tokens, checkpoint_layers):
    dropout = {"attention_dropout": 0.3, "ff_dropout": 0.3}
    plain, checkpointed = (
        build(tokens, **dropout, checkpoint_layers=x).double() for x in (False, checkpoint_layers)
    )
    runs = []
    for number, layer in enumerate(checkpointed.layers):
        layer.register_forward_pre_hook(lambda *_, number=number: runs.append(number))
    inputs = batch_of(4, dtype=torch.float64)
    inputs["rna"] = Masked(inputs["rna"], torch.tensor([True, False, True, True]))
    gradients = []
    for model in (plain, checkpointed):
        torch.manual_seed(1)
        model(inputs).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)
    assert runs == ([0, 1, 1, 0] if checkpoint_layers is True else [0, 1, 1])
    runs.clear()
    checkpointed.eval()(inputs).sum().backward()
    assert runs == [0, 1]  # in training alone


def test_a_layer_that_is_not_there_cannot_be_checkpointed():
    message = "expected checkpoint_layers to be numbers of layers below 2, got [0, 2]"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build(checkpoint_layers=[0, 2])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_trains_to_the_same_loss(dtype):
    """Autocast, and for float16 a gradient scaler; the same 150 steps in float32 are the reference."""

    def draw(generator):
        inputs = {name: torch.randn(64, f, generator=generator) for name, f in WIDTHS.items()}
        noise = 0.5 * torch.randn(64, 2, generator=generator)
        return inputs, inputs["rna"][:, :2] + inputs["protein"][:, :2].tanh() + noise

    def train(half):
        model = build(3)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        scaler = torch.amp.GradScaler("cpu", enabled=half and dtype == torch.float16)
        generator, losses = torch.Generator().manual_seed(7), []
        for _ in range(150):
            inputs, target = draw(generator)
            with torch.autocast("cpu", dtype=dtype, enabled=half):
                loss = (model(inputs).float() - target).square().mean()
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            losses.append(loss.item())
        return sum(losses[:10]) / 10, sum(losses[-50:]) / 50

    (first, full), (_, half) = train(False), train(True)
    assert full < 0.5 * first
    assert half == pytest.approx(full, rel=0.05)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0")
@pytest.mark.parametrize("training", [False, True])
def test_ragged_bags_compile_to_few_graphs(training):
    """Bags of six lengths: the first compiles, the second makes the length a variable, and no other compiles again."""
    torch.manual_seed(0)
    model = HEALNet({"slide": PatchEncoder(5), "rna": OmicEncoder(4)}, **SIZES).train(training)
    graphs = []

    def backend(graph, example):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, backend=backend)
    generator = torch.Generator().manual_seed(0)
    for n in (40, 33, 57, 21, 90, 64):
        bag = PatchBag(
            torch.randn(2, n, 5, generator=generator),
            1000 * torch.rand(2, n, 2, generator=generator),
            torch.arange(n) < torch.tensor([[n], [n // 2]]),
        )
        inputs = {"slide": bag, "rna": torch.randn(2, 4, generator=generator)}
        with torch.set_grad_enabled(training):
            got, expected = compiled(inputs), model(inputs)
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert len(graphs) <= 2


@pytest.mark.parametrize(
    ("output", "out_dim"),
    [(None, 3), ("cox", 1), ("discrete", 1), ("discrete", 4), ("classes", 3), ("value", 1)],
)
def test_a_model_says_what_its_output_means(output, out_dim):
    assert build(output=output, out_dim=out_dim).output == output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"output": "risk"},
            "expected output to be one of ('cox', 'discrete', 'classes', 'value') or None, got 'risk'",
        ),
        ({"output": "cox", "out_dim": 4}, "expected out_dim=1 with output='cox', got 4"),
        ({"output": "value", "out_dim": 2}, "expected out_dim=1 with output='value', got 2"),
        ({"output": "classes", "out_dim": 1}, "expected out_dim of at least 2 with output='classes', got 1"),
    ],
)
def test_an_output_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build(**arguments)


def test_of_a_head_of_ones_own_the_width_is_not_known():
    assert build(output="cox", out_dim=4, head=torch.nn.Identity()).output == "cox"


def test_sizes_are_given_by_name():
    with pytest.raises(TypeError, match=r"takes 2 positional arguments but 3 were given"):
        HEALNet({"rna": OmicEncoder(5)}, 4)


@pytest.mark.parametrize(
    "size", ["out_dim", "depth", "num_latents", "latent_dim", "num_heads", "head_dim", "ff_mult"]
)
def test_a_size_below_one_is_refused_by_name(size):
    with pytest.raises(ValueError, match=f"^expected {size} of at least 1, got 0$"):
        build(**{size: 0})
