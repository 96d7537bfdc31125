import pytest
import torch

from healnet import HEALNet
from healnet.encoders import OmicEncoder
from healnet.explain import attention_scores, gradient_attention, mean_attention, rollout, shapley_modalities
from healnet.fusion import AttentionTrace
from healnet.inputs import Masked
from healnet.training import TrainedModel


def test_mean_attention_is_the_mean_over_layers_heads_and_latents(model, inputs):
    model.eval()
    _, plain = model.trace(inputs)
    for keep in ("heads", "latents", "both"):
        _, kept = model.trace(inputs, keep=keep)
        for name in plain:
            torch.testing.assert_close(mean_attention(kept)[name], plain[name].mean(dim=0))
    weights = mean_attention(plain)["slide"]
    torch.testing.assert_close(weights.sum(dim=1), torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64))


def test_rollout_by_hand():
    """One latent, two layers: what was read first is halved by every later update."""
    first, second = torch.tensor([[0.25, 0.75]]), torch.tensor([[1.0, 0.0]])
    one = torch.ones(1, 1, 1)
    trace = AttentionTrace(
        {"a": torch.stack([first, second]).unsqueeze(2), "b": torch.ones(2, 1, 1, 1)},
        keep="latents",
        latents={"a": torch.stack([one, one]), "b": torch.stack([one, one])},
    )
    found = rollout(trace)
    # In order a, b, a, b: reading a first weighs 1/2 and is halved three times; b first 1/2, halved twice; and so on.
    torch.testing.assert_close(found["a"], first / 16 + second / 4)
    torch.testing.assert_close(found["b"], torch.tensor([[1 / 8 + 1 / 2]]))


def test_rollout_follows_self_attention_between_latents():
    """Each latent reads a token of its own; then both attend to latent 0, and keep half of what they had."""
    trace = AttentionTrace(
        {"a": torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])},
        keep="latents",
        latents={"a": torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])},
    )
    # R = [[1/2, 0], [0, 1/2]] becomes [[1/2, 0], [1/4, 1/4]].
    torch.testing.assert_close(rollout(trace)["a"], torch.tensor([[0.375, 0.125]]))


def test_rollout_shares_sum_to_one_with_the_start(model, inputs):
    found = attention_scores(model, inputs, method="rollout")
    total = sum(scores.sum(dim=1) for scores in found.values())
    # Each of two layers halves once per modality that the patient has.
    expected = 1 - 0.5 ** (2.0 * torch.tensor([3, 2, 2], dtype=torch.float64))
    torch.testing.assert_close(total, expected)
    assert found["protein"][1].abs().sum() == 0
    assert found["slide"][1, 4:].abs().sum() == 0


def test_rollout_of_each_patient_is_what_they_get_alone(model, inputs):
    together = attention_scores(model, inputs, method="rollout")["rna"]
    for i in range(3):
        alone = {name: type(v)(*[f[i : i + 1] for f in v]) for name, v in inputs.items() if name != "rna"}
        alone["rna"] = inputs["rna"][i : i + 1]
        torch.testing.assert_close(attention_scores(model, alone, method="rollout")["rna"][0], together[i])


def test_rollout_averages_kept_heads(model, inputs):
    model.eval()
    _, both = model.trace(inputs, keep="both")
    _, latents = model.trace(inputs, keep="latents")
    for name, scores in rollout(both).items():
        torch.testing.assert_close(scores, rollout(latents)[name])


def test_rollout_needs_latents(model, inputs):
    _, trace = model.trace(inputs)
    with pytest.raises(
        ValueError,
        match=r'^rollout needs model.trace\(inputs, keep="latents"\), got a trace with keep=\'none\'$',
    ):
        rollout(trace)


def test_gradient_attention_is_weight_times_slope(model, inputs):
    scores = attention_scores(model, inputs)
    _, trace = model.eval().trace(inputs, keep="both", gradient_of=lambda output: output[:, 0])
    for name in scores:
        torch.testing.assert_close(scores[name], gradient_attention(trace)[name])
        torch.testing.assert_close(scores[name], trace.gradients[name].mean(dim=(2, 3)).sum(dim=0))
    assert scores["slide"][2].abs().sum() == 0
    assert scores["slide"][0].min() < 0 < scores["slide"][0].max()


def test_gradient_attention_changes_sign_with_the_risk(model, inputs):
    up = attention_scores(model, inputs)["rna"]
    down = attention_scores(model, inputs, risk=lambda output: -output[:, 0])["rna"]
    torch.testing.assert_close(up, -down)


def test_wrong_requests_are_refused(model, inputs):
    with pytest.raises(ValueError, match=r"^expected method 'mean', 'rollout' or 'gradient', got 'max'$"):
        attention_scores(model, inputs, method="max")
    _, trace = model.trace(inputs)
    with pytest.raises(
        ValueError, match=r"^expected a trace with gradients, made by model.trace\(inputs, gradient_of=...\)"
    ):
        gradient_attention(trace)
    with pytest.raises(ValueError, match=r"^expected risk\(output\) to give one number per patient"):
        attention_scores(model, inputs, risk=lambda output: output)


def test_the_model_stays_as_it_was(model, inputs):
    model.train()
    first, second = (attention_scores(model, inputs, method="mean")["slide"] for _ in range(2))
    assert torch.equal(first, second)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_only_the_named_modalities_are_scored(model, inputs):
    for method in ("mean", "rollout", "gradient"):
        whole = attention_scores(model, inputs, method=method)
        some = attention_scores(model, inputs, modalities=["slide", "rna"], method=method)
        assert list(some) == ["slide", "rna"]
        assert torch.equal(some["rna"], whole["rna"])


def test_rollout_is_as_precise_as_the_model():
    """A third of each of three latents in float32 would be wrong by 1e-8."""
    torch.manual_seed(0)
    model = HEALNet({"rna": OmicEncoder(5)}, depth=1, num_latents=3, self_attention=0, output="cox").double()
    scores = attention_scores(model, {"rna": torch.randn(2, 5).double()}, method="rollout")["rna"]
    torch.testing.assert_close(scores.sum(dim=1), torch.full((2,), 0.5).double(), atol=1e-15, rtol=0)


def test_autocast_does_not_round_rollout_to_few_ranks(model, inputs):
    slide = {"slide": inputs["slide"].to(torch.float32)}
    with torch.autocast("cpu", torch.bfloat16):
        assert attention_scores(model.float(), slide, method="rollout")["slide"].dtype == torch.float32


@pytest.fixture(scope="module")
def trained():
    """Two networks whose risks are of other sizes, in float64, of one modality with gaps."""
    torch.manual_seed(3)
    models = [
        HEALNet(
            {"rna": OmicEncoder(5), "cnv": OmicEncoder(3)}, output="cox", num_latents=3, latent_dim=8
        ).double()
        for _ in range(2)
    ]
    inputs = {
        "rna": torch.randn(4, 5, dtype=torch.float64),
        "cnv": Masked(torch.randn(4, 3, dtype=torch.float64), torch.tensor([True, False, True, True])),
    }
    return TrainedModel(models, centers=[0.1, 0.2], scales=[0.5, 2.0]), inputs


@pytest.mark.parametrize("method", ["mean", "rollout"])
def test_a_trained_model_looks_where_its_networks_look_on_average(trained, method):
    model, inputs = trained
    found = attention_scores(model, inputs, method=method)
    parts = [attention_scores(network, inputs, method=method) for network in model.models]
    for name in inputs:
        torch.testing.assert_close(found[name], (parts[0][name] + parts[1][name]) / 2)


@pytest.mark.parametrize("risk", [None, lambda output: output[:, 0] ** 2])
def test_gradients_of_a_trained_model_are_those_of_its_prediction(trained, risk):
    """By the chain rule by hand: each network's scores, times the slope of the whole by its log hazard."""
    model, inputs = trained
    found = attention_scores(model, inputs, risk=risk)
    parts = [attention_scores(network, inputs) for network in model.models]
    with torch.no_grad():
        slope = torch.ones(4, 1, dtype=torch.float64) if risk is None else 2 * model(inputs)
    for name in inputs:
        expected = slope * (parts[0][name] / 0.5 + parts[1][name] / 2.0) / 2
        torch.testing.assert_close(found[name], expected)
    assert found["rna"].abs().max() > 1e-4


def test_shapley_values_of_a_trained_model_add_up_to_what_it_predicts(trained):
    model, inputs = trained
    shares = shapley_modalities(model, inputs)
    with torch.no_grad():
        torch.testing.assert_close(sum(shares.values()) + shares.nothing, model(inputs)[:, 0])
