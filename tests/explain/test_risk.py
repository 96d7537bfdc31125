"""What is explained: the number that a model declares, or the one that the user names; never a guess."""

import pytest
import torch
from torch import nn

from healnet import HEALNet
from healnet.encoders import OmicEncoder
from healnet.explain import (
    Risk,
    attention_scores,
    gradient_x_input,
    input_gradients,
    integrated_gradients,
    occlude,
    occlude_modalities,
    shapley_modalities,
)
from healnet.explain.risk import quantity_name, resolve_risk
from healnet.survival import risk_score

INPUTS = {"rna": torch.randn(3, 5, generator=torch.Generator().manual_seed(0))}


class Model(nn.Module):
    """Answers with whatever it is given, as `output`."""

    def __init__(self, answer, output=None):
        super().__init__()
        self.answer, self.output = answer, output

    def forward(self, inputs):
        return self.answer


def read(answer, output):
    model = Model(answer, output)
    return resolve_risk(model, {}, None)(model({}))


def healnet(**options):
    torch.manual_seed(4)
    return HEALNet({"rna": OmicEncoder(5)}, depth=1, num_latents=4, latent_dim=8, **options).eval()


def test_each_declaration_has_its_reading():
    logits = torch.randn(4, 3)
    column = torch.tensor([[1.0], [2.0]])
    for output in ("cox", "value"):
        assert read(column, output).tolist() == [1, 2]
        assert read(column[:, 0], output).tolist() == [1, 2]
    assert torch.equal(read(logits, "discrete"), risk_score(logits))
    assert torch.equal(read(logits, "classes"), logits.log_softmax(dim=1).max(dim=1).values)


SCORES = [shapley_modalities, occlude, gradient_x_input, integrated_gradients, attention_scores]


@pytest.mark.parametrize("score", SCORES)
def test_four_class_logits_are_not_taken_for_discrete_hazards(score):
    message = (
        r"^expected a model that declares what its output means, such as HEALNet\(..., output='cox'\), or a risk, "
        r"such as risk=lambda output: output\[:, 0\] for one number per patient; got neither$"
    )
    with pytest.raises(ValueError, match=message):
        score(healnet(out_dim=4), INPUTS)


def test_a_class_model_is_explained_by_the_class_it_predicts_from_everything():
    """Whatever is hidden later: the class of the whole inputs stays the one whose log-probability is followed."""
    model = healnet(out_dim=4, output="classes")
    with torch.no_grad():
        chosen = model(INPUTS).argmax(dim=1)
        alone = model({})[0].log_softmax(dim=0)
        assert (alone.argmax() != chosen).any()  # without RNA another class would be predicted
        whole = model(INPUTS).log_softmax(dim=1).gather(1, chosen[:, None])[:, 0]
    shares = shapley_modalities(model, INPUTS)
    torch.testing.assert_close(shares.risk, whole)
    torch.testing.assert_close(shares.nothing, alone[chosen])
    occluded = occlude(model, INPUTS, groups={"rna": torch.zeros(5, dtype=torch.long)}, rows=2)["rna"][:, 0]
    torch.testing.assert_close(occluded, whole - alone[chosen])
    own = gradient_x_input(model, INPUTS, risk=lambda output: output.log_softmax(1)[torch.arange(3), chosen])
    assert torch.equal(gradient_x_input(model, INPUTS)["rna"], own["rna"])


class TwoHeads(nn.Module):
    """A log hazard and class logits, as a tuple or by name."""

    def __init__(self, named):
        super().__init__()
        self.hazard, self.classes, self.named = nn.Linear(8, 1), nn.Linear(8, 3), named

    def forward(self, latents):
        found = self.hazard(latents.mean(1)), self.classes(latents.mean(1))
        return dict(zip(("hazard", "classes"), found, strict=True)) if self.named else found


class First(nn.Module):
    """The log hazard alone."""

    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, latents):
        return self.head.hazard(latents.mean(1))


@pytest.mark.parametrize(
    ("named", "kind", "part"), [(False, "tuple", "output[0]"), (True, "dict", "output['hazard']")]
)
@pytest.mark.parametrize("score", SCORES)
def test_heads_that_return_several_outputs_need_a_risk_and_take_one(score, named, kind, part):
    model = healnet(head=TwoHeads(named), output="cox")
    with pytest.raises(ValueError, match=r"^expected a model") as error:
        score(model, INPUTS)
    assert str(error.value) == (
        f"expected a model with output='cox' to return a tensor, got {kind}: "
        f"pass the number to explain, such as risk=lambda output: {part}[:, 0]"
    )
    risk: Risk = eval(f"lambda output: {part}[:, 0]")  # what the message shows works
    found = score(model, INPUTS, risk=risk)
    model.head = First(model.head)
    torch.testing.assert_close(found["rna"], score(model, INPUTS)["rna"])


def test_outputs_that_do_not_fit_their_declaration_are_refused():
    for output, answer, expected in (
        (
            "cox",
            torch.zeros(2, 3),
            r"an output \(b, 1\) or \(b,\) of a model with output='cox', got \(2, 3\)",
        ),
        ("discrete", torch.zeros(2), r"logits \(b, k\) of a model with output='discrete', got \(2,\)"),
        ("classes", torch.zeros(2, 1), r"logits \(b, k\) of a model with output='classes', got \(2, 1\)"),
    ):
        with pytest.raises(ValueError, match=f"^expected {expected}$"):
            read(answer, output)
    message = r"^expected model.output to be one of \['cox', 'risk', 'discrete', 'classes', 'value'\], got 'hazards'$"
    with pytest.raises(ValueError, match=message):
        read(torch.zeros(2, 1), "hazards")


def test_a_risk_that_is_not_one_number_per_patient_is_refused():
    for answer, got in ((torch.zeros(2, 3), r"shape \(2, 3\)"), (1.5, "float")):
        with pytest.raises(
            ValueError, match=rf"^expected risk\(output\) to give one number per patient \(b,\), got {got}$"
        ):
            resolve_risk(Model(answer), {}, lambda output: output)(answer)


def test_the_quantity_has_a_name():
    names = [
        quantity_name(Model(None, output), None) for output in ("cox", "discrete", "classes", "value", None)
    ]
    assert names == [
        "log hazard",
        "risk score",
        "log-probability of the predicted class",
        "predicted value",
        "risk",
    ]
    assert quantity_name(Model(None, "cox"), lambda output: output) == "risk"


@pytest.mark.parametrize(
    "score", [*SCORES, input_gradients, occlude_modalities], ids=lambda score: score.__name__
)
@pytest.mark.parametrize("risk", [lambda output: output.mean(dim=0)[:1], lambda output: output[0]])
def test_a_number_of_the_whole_batch_is_no_risk(score, risk):
    """It was broadcast over the patients, or its gradient taken for theirs."""
    message = r"^expected risk\(output\) to give one number per patient, \d+ of them, got [14]: output\[:, 0\] is the"
    with pytest.raises(ValueError, match=message):
        score(healnet(out_dim=4), INPUTS, risk=risk)


def test_outputs_of_several_tensors_say_how_many_patients_there_are():
    for answer in ({"a": torch.zeros(3, 2)}, (torch.zeros(3, 2), None), [torch.zeros(3, 2)]):
        read = resolve_risk(Model(answer), {}, lambda output: torch.zeros(2))
        with pytest.raises(ValueError, match=r"^expected risk\(output\) .*, 3 of them, got 2"):
            read(answer)
    assert resolve_risk(Model(None), {}, lambda output: torch.zeros(2))(None).tolist() == [0, 0]
