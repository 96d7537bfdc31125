import pytest
import torch
from torch import nn

from healnet import Masked
from healnet.baselines import MeanFusion, SelfNormalizingNetwork
from healnet.encoders import OmicEncoder


class Sum(nn.Module):
    """A model whose output is known: the sum of its modality's row, times a weight."""

    def __init__(self, name, weight):
        super().__init__()
        self.name, self.weight = name, nn.Parameter(torch.tensor(weight))
        self.seen = []

    def forward(self, inputs):
        value = inputs[self.name]
        self.seen.append(len(value if isinstance(value, torch.Tensor) else value.values))
        return self.weight * (value if isinstance(value, torch.Tensor) else value.values).sum(1, keepdim=True)


class First(nn.Module):
    """The values of a modality."""

    def __init__(self, name):
        super().__init__()
        self.name = name

    def forward(self, inputs):
        return inputs[self.name]


def test_the_mean_is_over_those_that_a_patient_has():
    model = MeanFusion({"rna": Sum("rna", 1.0), "cnv": Sum("cnv", 10.0)})
    rna, cnv = torch.tensor([[1.0, 2.0], [5.0, 6.0], [0.0, 4.0]]), torch.tensor([[1.0], [2.0], [3.0]])
    has = torch.tensor([True, False, False])
    inputs = {"rna": Masked(rna, torch.tensor([True, True, False])), "cnv": Masked(cnv, has)}
    assert model(inputs).tolist() == [[(3 + 10) / 2], [11.0], [0.0]]
    assert [m.seen for m in model.models.values()] == [[2], [1]]
    assert model({"rna": rna, "cnv": None}).tolist() == [[3.0], [11.0], [4.0]]
    assert model({}).tolist() == [[0.0]]


def test_under_autocast_models_of_half_precision_are_averaged():
    model = MeanFusion({name: nn.Sequential(First(name), nn.Linear(3, 1)) for name in ("rna", "cnv")})
    inputs = {"rna": torch.ones(2, 3), "cnv": torch.ones(2, 3)}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(inputs)
    torch.testing.assert_close(found, model(inputs), rtol=0, atol=0.02)


def test_a_model_is_not_called_where_everybody_lacks_its_modality():
    model = MeanFusion({"rna": Sum("rna", 1.0), "cnv": Sum("cnv", 1.0)})
    model({"rna": Masked(torch.ones(2, 3), torch.tensor([False, False])), "cnv": torch.ones(2, 1)})
    assert model.models["rna"].seen == []


def test_single_models_that_cannot_miss_their_modality_are_fused_all_the_same():
    single = SelfNormalizingNetwork({"rna": OmicEncoder(3, "vector")}).eval()
    model = MeanFusion({"rna": single})
    rna = torch.randn(2, 3)
    got = model({"rna": Masked(rna, torch.tensor([False, True]))})
    assert got[0].item() == 0
    torch.testing.assert_close(got[1:], single({"rna": rna[1:]}))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"ct": torch.zeros(2, 1)}, r"^unknown modality 'ct': this model's modalities are \['rna', 'cnv'\]$"),
        (
            {"rna": torch.zeros(2, 1), "cnv": torch.zeros(3, 1)},
            "^modality 'cnv': expected a batch of 2 patients, got 3$",
        ),
        (
            {"rna": [1.0]},
            "^expected a tensor or a NamedTuple of tensors, got list$",
        ),
    ],
)
def test_inputs_that_cannot_be(inputs, message):
    with pytest.raises(ValueError, match=message):
        MeanFusion({"rna": Sum("rna", 1.0), "cnv": Sum("cnv", 1.0)})(inputs)


def test_no_model_is_refused():
    with pytest.raises(ValueError, match=r"^expected at least one model, got none$"):
        MeanFusion({})
