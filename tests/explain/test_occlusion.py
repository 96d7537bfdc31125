import numpy as np
import pytest
import torch

from healnet import HEALNet, Pieces, Stream
from healnet.encoders import GridEncoder
from healnet.explain import (
    faithfulness,
    group_by_square,
    occlude,
    occlude_modalities,
    shapley_modalities,
)
from healnet.inputs import Masked


def log_hazard(model, inputs):
    with torch.no_grad():
        return model.eval()(inputs)[:, 0]


def test_a_hidden_gene_is_the_change_of_risk_without_it(model, inputs):
    scores = occlude(model, inputs)["rna"]
    whole = log_hazard(model, inputs)
    for gene in range(5):
        shown = torch.ones(3, 5, dtype=torch.bool)
        shown[:, gene] = False
        without = log_hazard(model, {**inputs, "rna": Masked(inputs["rna"], shown)})
        torch.testing.assert_close(scores[:, gene], whole - without)
    assert scores.abs().min() > 0


def test_blocks_of_patches_and_those_who_have_none(model, inputs):
    groups = torch.tensor([0, 0, 1, 1, 2, 2, 2, 2, -1, -1, -1])
    scores = occlude(model, inputs, groups={"slide": groups})["slide"]
    assert scores.shape == (3, 3)
    assert scores[0].abs().min() > 0
    assert scores[1, 2] == 0
    assert scores[2].abs().max() == 0
    kept = inputs["slide"].mask & (groups != 1)
    without = log_hazard(model, {**inputs, "slide": inputs["slide"]._replace(mask=kept)})
    torch.testing.assert_close(scores[:, 1], log_hazard(model, inputs) - without)


def test_each_patient_may_have_their_own_groups(model, inputs):
    own = torch.stack([torch.arange(11) % 2, torch.arange(11) % 2, torch.zeros(11, dtype=torch.long)])
    shared = occlude(model, inputs, groups={"slide": torch.arange(11) % 2})["slide"]
    torch.testing.assert_close(occlude(model, inputs, groups={"slide": own})["slide"][:2], shared[:2])


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_passes_of_any_size_give_the_same(model, inputs, rows):
    torch.testing.assert_close(occlude(model, inputs, rows=rows), occlude(model, inputs))


def test_a_projected_gene_is_hidden_as_the_training_mean(model, inputs):
    scores = occlude(model, inputs)["protein"]
    zeroed = inputs["protein"].values.clone()
    zeroed[:, 1] = 0
    without = log_hazard(model, {**inputs, "protein": inputs["protein"]._replace(values=zeroed)})
    whole = log_hazard(model, inputs)
    torch.testing.assert_close(scores[:, 1], whole - without)
    assert scores[1].abs().max() == 0


def test_a_hidden_modality_equals_leaving_it_out(model, inputs):
    scores = occlude_modalities(model, inputs)
    whole = log_hazard(model, inputs)
    for name in inputs:
        rest = {other: value for other, value in inputs.items() if other != name}
        torch.testing.assert_close(scores[name], whole - log_hazard(model, rest))
    assert scores["protein"][1] == 0
    assert scores["slide"][2] == 0
    assert list(occlude_modalities(model, inputs, modalities=["rna"])) == ["rna"]


def test_groups_that_do_not_fit_are_refused(model, inputs):
    message = r"^modality 'rna': expected integer groups of shape \(5,\) or \(3, 5\), got torch.float32 of shape \(4,\)$"
    with pytest.raises(ValueError, match=message):
        occlude(model, inputs, groups={"rna": torch.zeros(4)})
    with pytest.raises(ValueError, match=r"^modality 'rna': expected at least one group, got none$"):
        occlude(model, inputs, groups={"rna": torch.full((5,), -1)})
    message = r"^modality 'rna': expected groups 0..g-1 of 5 elements, got number 900; torch.unique\("
    with pytest.raises(ValueError, match=message):
        occlude(model, inputs, groups={"rna": torch.tensor([0, 0, 900, 900, 7])})
    message = r"^modality 'slide': expected groups of the scored modalities \['rna'\]$"
    with pytest.raises(ValueError, match=message):
        occlude(model, inputs, modalities=["rna"], groups={"slide": torch.zeros(11).long()})


def test_tiles_are_squares_of_the_slide():
    coords = np.array([[0, 0], [999, 999], [1000, 0], [0, 1000], [2500, 2500]])
    assert group_by_square(coords, 1000).tolist() == [0, 0, 1, 2, 3]
    with pytest.raises(ValueError, match=r"^expected coords \(n, 2\) and a positive side, got \(3,\) and 5$"):
        group_by_square([1, 2, 3], 5)


@pytest.mark.parametrize("score", [occlude, shapley_modalities, occlude_modalities])
def test_differences_in_half_precision_are_warned_about(model, inputs, score):
    message = r"^differences of risks in torch.bfloat16 are mostly rounding: explain outside autocast, with a model in"
    one = {"rna": inputs["rna"].float()}
    with torch.autocast("cpu", torch.bfloat16), pytest.warns(UserWarning, match=message):
        score(model.float(), one)


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_a_scan_keeps_its_extent_without_its_last_row(patch, masked):
    """In memory as in a stream: where the extent shrank, every other pixel got another place."""
    torch.manual_seed(0)
    model = HEALNet({"scan": GridEncoder(channels=1, ndim=2, patch=patch)}, output="cox").double().eval()
    scan = torch.rand(2, 6, 6, 1, dtype=torch.float64)
    real = torch.ones(2, 6, 6, dtype=torch.bool)
    real[0, 1, :3] = real[1, 4:, 1] = not masked
    inputs = Masked(scan, real) if masked else scan
    stream = Stream([Pieces(x, block=(2, 6), mask=m) for x, m in zip(scan, real, strict=True)])
    rows = torch.arange(6)[:, None].expand(6, 6).contiguous()
    for groups in (rows, rows.T.contiguous()):
        found, streamed = (
            occlude(model, {"scan": value}, groups={"scan": groups})["scan"] for value in (inputs, stream)
        )
        torch.testing.assert_close(found, streamed, rtol=0, atol=1e-12)
    scores = {"scan": torch.arange(36.0).reshape(1, 6, 6).expand(2, 6, 6)}  # the last rows go first
    curves = [faithfulness(model, {"scan": value}, scores, repeats=1) for value in (inputs, stream)]
    torch.testing.assert_close(curves[0].deletion, curves[1].deletion, rtol=0, atol=1e-12)
    torch.testing.assert_close(curves[0].insertion, curves[1].insertion, rtol=0, atol=1e-12)
