"""Scores of streams, which come in blocks, against those of the same data in memory."""

import re

import pytest
import torch

from healnet import HEALNet, Masked, PatchBag, Pieces, Stream
from healnet.encoders import GridEncoder, OmicEncoder, PatchEncoder
from healnet.explain import (
    activation_pattern,
    attention_scores,
    faithfulness,
    gradient_x_input,
    input_gradients,
    integrated_gradients,
    occlude,
    occlude_modalities,
    shapley_modalities,
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    encoders = {
        "slide": PatchEncoder(3),
        "rna": OmicEncoder(5, tokens=2, token_dim=3),
        "scan": GridEncoder(channels=2, ndim=2),
    }
    return HEALNet(encoders, latent_dim=8, num_latents=3, num_heads=2, output="cox").double()


@pytest.fixture
def inputs():
    """Three patients in memory and in pieces: the second has no slide, the third a smaller slide and scan."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    features, coords = draw(3, 11, 3), torch.randint(0, 9999, (3, 11, 2), generator=generator)
    sizes = [11, 0, 7]
    mask = torch.arange(11) < torch.tensor(sizes).unsqueeze(1)
    scan, shown = draw(3, 5, 4, 2), torch.ones(3, 5, 4, dtype=torch.bool)
    shown[2, 3:] = shown[2, :, 2:] = False
    slides = [Pieces(features[i, :n], (4,), coords=coords[i, :n]) if n else None for i, n in enumerate(sizes)]
    scans = [Pieces(scan[0], (2, 3)), Pieces(scan[1], (5, 4)), Pieces(scan[2, :3, :2], (2, 2))]
    whole = {"rna": draw(3, 5), "slide": PatchBag(features, coords, mask), "scan": Masked(scan, shown)}
    return whole, {"rna": whole["rna"], "slide": Stream(slides), "scan": Stream(scans)}


@pytest.mark.parametrize("method", ["mean", "rollout", "gradient"])
def test_attention_scores(model, inputs, method):
    whole, pieces = (attention_scores(model, x, method=method) for x in inputs)
    assert list(pieces) == list(whole) == ["rna", "slide", "scan"]
    for name, expected in whole.items():
        assert expected.abs().max() > 1e-6
        torch.testing.assert_close(pieces[name], expected, rtol=1e-8, atol=1e-12)


def test_gradient_x_input_per_token(model, inputs):
    whole, pieces = (gradient_x_input(model, x, per_token=True) for x in inputs)
    assert list(pieces) == list(whole) == ["rna", "slide", "scan"]
    for name, expected in whole.items():
        torch.testing.assert_close(pieces[name], expected, rtol=1e-8, atol=1e-12)
    assert pieces["scan"].shape == (3, 5, 4)


@pytest.mark.parametrize("score", [occlude_modalities, shapley_modalities])
def test_whole_modalities(model, inputs, score):
    whole, pieces = (score(model, x) for x in inputs)
    for name, expected in whole.items():
        torch.testing.assert_close(pieces[name], expected, rtol=1e-8, atol=1e-12)


def test_groups_of_elements(model, inputs):
    groups = {"slide": torch.arange(11) // 3, "scan": torch.full((5, 4), -1)}
    groups["scan"][1:3, :1] = 0  # away from the border, where the places of the rest would move in memory
    groups["scan"][0, :2] = 1
    whole, pieces = (occlude(model, x, modalities=["slide", "scan"], groups=groups) for x in inputs)
    for name, expected in whole.items():
        assert (expected[0] != 0).all()
        torch.testing.assert_close(pieces[name], expected, rtol=1e-8, atol=1e-12)
    message = "modality 'scan': expected groups of the elements of a Stream, which is read for each of them, got none"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        occlude(model, inputs[1], modalities=["slide", "scan"], groups={"slide": groups["slide"]})


def test_faithfulness_hides_elements_of_a_stream(model, inputs):
    scores = {"slide": torch.arange(33.0).reshape(3, 11).sin()}
    whole, pieces = (faithfulness(model, x, scores) for x in inputs)
    assert (whole.deletion.diff(dim=1)[0].abs() > 1e-9).all()
    torch.testing.assert_close(pieces[:-1], whole[:-1], rtol=1e-8, atol=1e-12)


def test_what_is_in_memory_is_explained_beside_a_stream(model, inputs):
    for score in (integrated_gradients, occlude, input_gradients):
        whole, pieces = (score(model, x, modalities=["rna"])["rna"] for x in inputs)
        torch.testing.assert_close(pieces, whole, rtol=1e-8, atol=1e-12)
    whole, pieces = (activation_pattern(model, x) for x in inputs)
    assert list(pieces) == ["rna"]
    torch.testing.assert_close(pieces["rna"], whole["rna"], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(
    "score",
    [
        integrated_gradients,
        input_gradients,
        gradient_x_input,
        activation_pattern,
    ],
)
def test_where_all_numbers_are_needed_a_stream_is_refused(model, inputs, score):
    message = (
        "modality 'slide': expected numbers in memory, got a Stream; attention_scores, write_scores, "
        "gradient_x_input(per_token=True), occlude(groups=...) and shapley_modalities read it in pieces"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        score(model, inputs[1], modalities=["slide"])


def test_tokens_that_are_no_elements_are_refused():
    model = HEALNet({"scan": GridEncoder(2, 2, patch=2)})
    with pytest.raises(
        ValueError, match=r"^modality 'scan': expected one token per element, got 2 tokens of a block"
    ):
        attention_scores(model, {"scan": Stream([Pieces(torch.rand(4, 2, 2), (4, 2))])}, method="mean")


def test_a_stream_without_patients_scores_nothing(model, inputs):
    nobody = {"rna": inputs[1]["rna"], "slide": Stream([None] * 3)}
    for method in ("mean", "rollout", "gradient"):
        assert attention_scores(model, nobody, method=method)["slide"].shape == (3, 0)
