"""Laws that every baseline keeps as far as its design allows: run on all of them."""

import re

import pytest
import torch

from healnet import HEALNet, Masked, PatchBag
from healnet import baselines as b
from healnet.encoders import OmicEncoder, PatchEncoder
from healnet.inputs import hide, take, values_of
from healnet.testing import check_model

WIDTHS = {"clinical": 5, "rna": 13, "protein": 7}
PATIENTS = 5


def tables(tokens="vector"):
    return {name: OmicEncoder(width, tokens, token_dim=6) for name, width in WIDTHS.items()}


def guided():
    return {
        "rna": OmicEncoder(13, 3, token_dim=6),
        "protein": OmicEncoder(7, 2, token_dim=4),
        "slide": PatchEncoder(11),
    }


def mean_fusion(**options):
    models = {n: HEALNet({n: e}, num_latents=3, latent_dim=8, out_dim=2) for n, e in tables().items()}
    return b.MeanFusion(models, out_dim=2, **options)


def mil(**options):
    return b.AttentionMIL({"slide": PatchEncoder(11)}, out_dim=2, dim=8, hidden=4, **options)


PASS_OVER = {
    "attention MIL": mil,
    "early fusion": lambda **o: b.EarlyFusion(
        tables("features"), out_dim=2, num_latents=3, latent_dim=8, **o
    ),
    "MultiModN": lambda **o: b.MultiModN(tables(), out_dim=2, dim=8, state_dim=4, **o),
    "mean fusion": mean_fusion,
}
NEED_ALL = {
    "a self-normalizing network": lambda **o: b.SelfNormalizingNetwork(
        tables(), out_dim=2, hidden=(8, 6), **o
    ),
    "late fusion by concatenation": lambda **o: b.LateConcat(tables(2), out_dim=2, dim=8, **o),
    "late fusion by Kronecker product": lambda **o: b.LateKronecker(tables(), out_dim=2, dim=8, rank=3, **o),
}
NEED_BAG = {
    "MCAT": lambda **o: b.MCAT(guided(), "slide", out_dim=2, dim=8, num_heads=2, **o),
    "MOTCat": lambda **o: b.MOTCat(guided(), "slide", out_dim=2, dim=8, num_heads=2, micro_batch=2, **o),
    "SurvPath": lambda **o: b.SurvPath(guided(), "slide", out_dim=2, dim=8, **o),
}
NEEDY = NEED_ALL | NEED_BAG
EVERY = PASS_OVER | NEEDY


def built(name, **options):
    torch.manual_seed(0)
    return EVERY[name](**options).double()


def example(model):
    """A batch that has everything, with bags of different lengths."""
    generator = torch.Generator().manual_seed(1)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    inputs = {}
    for name in model.models if isinstance(model, b.MeanFusion) else model.encoders:
        if name == "slide":
            real = torch.arange(6) < torch.tensor([3, 1, 6, 2, 6])[:, None]
            inputs[name] = PatchBag(normal(PATIENTS, 6, 11), 100 * normal(PATIENTS, 6, 2), real)
        else:
            inputs[name] = normal(PATIENTS, WIDTHS[name])
    return inputs


@pytest.mark.parametrize("name", EVERY)
def test_the_laws_of_the_kit_hold_with_every_pattern_of_absence(name):
    model = built(name, **({"missing": "zero"} if name in NEEDY else {}))
    for seed in range(5):
        check_model(model, example(model), seed=seed)


@pytest.mark.parametrize("name", EVERY)
def test_a_complete_batch_gives_what_each_patient_gives_alone(name):
    model = built(name).eval()
    inputs = example(model)
    together = model(inputs)
    assert together.shape == (PATIENTS, 2)
    for row in range(PATIENTS):
        alone = model({key: take(value, torch.tensor([row])) for key, value in inputs.items()})
        torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", EVERY)
def test_padding_changes_nothing(name):
    model = built(name).eval()
    inputs = example(model)
    expected = model(inputs)
    if "slide" in inputs:
        bag = inputs["slide"]
        nonsense = torch.full((PATIENTS, 2, 11), float("nan"), dtype=torch.float64)
        inputs["slide"] = PatchBag(
            torch.cat((bag.features, nonsense), 1),
            torch.cat((bag.coords, nonsense[..., :2]), 1),
            torch.cat((bag.mask, torch.zeros(PATIENTS, 2, dtype=torch.bool)), 1),
        )
    inputs |= {
        key: Masked(value, torch.ones(PATIENTS, dtype=torch.bool))
        for key, value in inputs.items()
        if isinstance(value, torch.Tensor)
    }
    torch.testing.assert_close(model(inputs), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", EVERY)
def test_gradients_under_missingness_are_finite_and_zero_for_the_absent(name):
    """In training, with dropout, and with NaN where nothing is."""
    model = built(name, **({"missing": "zero"} if name in NEEDY else {})).train()
    hidden, leaves = {}, {}
    for i, (key, value) in enumerate(example(model).items()):
        absent = torch.arange(PATIENTS) % 3 == i % 3
        leaves[key] = values_of(value).clone().requires_grad_()
        poisoned = leaves[key].masked_fill(absent.view(-1, *[1] * (leaves[key].dim() - 1)), float("nan"))
        value = poisoned if isinstance(value, torch.Tensor) else value._replace(features=poisoned)
        hidden[key] = hide(value, absent)
    model(hidden).square().sum().backward()
    for i, leaf in enumerate(leaves.values()):
        absent = torch.arange(PATIENTS) % 3 == i % 3
        assert torch.isfinite(leaf.grad).all()
        assert (leaf.grad[absent] == 0).all()
        assert all((leaf.grad[row] != 0).any() for row in (~absent).nonzero())
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", EVERY)
def test_every_parameter_learns_from_a_complete_batch(name):
    model = built(name).train()
    model(example(model)).square().sum().backward()
    # A key's bias, and what shifts all scores alike, cancel in the softmax; their gradient is rounding.
    unused = [key for key, p in model.named_parameters() if p.grad is None]
    assert unused == []


@pytest.mark.parametrize("name", NEED_ALL)
def test_a_design_that_needs_every_modality_says_so(name):
    model = built(name)
    inputs = example(model)
    inputs["protein"] = Masked(inputs["protein"], torch.tensor([True, False, True, False, True]))
    message = (
        f"modality 'protein': expected every patient to have it, got 2 of 5 without; {name} cannot miss a modality "
        "(missing='zero' puts zeros in its place)"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        model(inputs)
    del inputs["protein"]
    with pytest.raises(ValueError, match=r"^modality 'protein': .* got 5 of 5 without; "):
        model(inputs)
    with pytest.raises(ValueError, match=r"^modality 'clinical': .* got 1 of 1 without; "):
        model({})


@pytest.mark.parametrize("name", NEED_BAG)
def test_a_design_around_a_bag_needs_the_bag_and_one_guide(name):
    model = built(name).eval()
    inputs = example(model)
    one_guide = {"rna": inputs["rna"], "slide": inputs["slide"]}
    torch.testing.assert_close(
        model({**inputs, "protein": hide(inputs["protein"], torch.ones(PATIENTS, dtype=torch.bool))}),
        model(one_guide),
    )
    first = torch.arange(PATIENTS) == 0
    with pytest.raises(
        ValueError, match=f"^modality 'slide': .* got 1 of 5 without; {name} cannot miss a modality"
    ):
        model({**inputs, "slide": hide(inputs["slide"], first)})
    message = (
        "modality 'slide': expected every patient to have one of ['rna', 'protein'] beside it, got 1 of 5 without; "
        f"{name} cannot miss them all (missing='zero' puts zeros in their place)"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        model({**one_guide, "rna": hide(inputs["rna"], first)})


@pytest.mark.parametrize("name", NEED_BAG)
@pytest.mark.parametrize("bag", ["ct", "rna"])
def test_the_bag_is_one_modality_of_several(name, bag):
    encoders = {"rna": OmicEncoder(5, 2)}
    message = f"expected bag to be one of two modalities or more, got {bag!r} of ['rna']"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        getattr(b, name)(encoders, bag)


@pytest.mark.parametrize("name", EVERY)
def test_the_output_is_declared(name):
    assert built(name).output is None
    assert built(name, output="classes").output == "classes"
    with pytest.raises(ValueError, match=r"^expected out_dim=1 with output='cox', got 2$"):
        built(name, output="cox")


@pytest.mark.parametrize("name", EVERY)
def test_what_healnet_refuses_is_refused_here(name):
    model = built(name)
    inputs = example(model)
    with pytest.raises(ValueError, match=r"^unknown modality 'ct': this model's modalities are \["):
        model({**inputs, "ct": inputs["slide" if "slide" in inputs else "rna"]})
    if "rna" in inputs:
        with pytest.raises(
            ValueError, match=r"^modality 'rna': expected a shape of \(b, 13\), got \(5, 12\)$"
        ):
            model({**inputs, "rna": inputs["rna"][:, :12]})
        with pytest.raises(
            ValueError, match=r"^modality '(rna|protein)': expected a batch of \d patients.*, got \d$"
        ):
            model({**inputs, "rna": inputs["rna"][:4]})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: b.LateConcat(tables(), dim=0), "expected dim of at least 1, got 0"),
        (lambda: b.LateConcat(tables(), missing="mean"), "expected missing 'refuse' or 'zero', got 'mean'"),
        (lambda: b.MultiModN({}), "expected at least one encoder, got none"),
    ],
)
def test_arguments_that_cannot_be(build, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build()
