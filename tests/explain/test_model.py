import pytest
import torch

from healnet.explain._model import checked, default_risk, evaluating, risk_of
from healnet.survival import risk_score


def test_default_risk_reads_a_log_hazard_or_scores_logits():
    logits = torch.randn(4, 3)
    assert torch.equal(default_risk(torch.tensor([[1.0], [2.0]])), torch.tensor([1.0, 2.0]))
    assert torch.equal(default_risk(torch.tensor([1.0, 2.0])), torch.tensor([1.0, 2.0]))
    assert torch.equal(default_risk(logits), risk_score(logits))


def test_evaluating_silences_dropout_and_puts_every_part_back(model, inputs):
    model.train()
    model.encoders["rna"].eval()
    before = {name: module.training for name, module in model.named_modules()}
    with evaluating(model):
        assert not any(module.training for module in model.modules())
        assert torch.equal(risk_of(model, inputs, default_risk), risk_of(model, inputs, default_risk))
    assert {name: module.training for name, module in model.named_modules()} == before


def test_evaluating_puts_back_after_an_error(model):
    model.train()
    with pytest.raises(KeyError), evaluating(model):
        raise KeyError
    assert model.training


def test_a_risk_of_another_shape_is_refused():
    with pytest.raises(
        ValueError,
        match=r"^expected risk\(output\) to give one number per patient \(b,\), got shape \(2, 3\)$",
    ):
        checked(torch.zeros(2, 3))
