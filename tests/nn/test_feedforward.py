import pytest
import torch

from healnet.nn.feedforward import GatedFeedForward, SelfNormalizing


@pytest.mark.parametrize(("gate", "function"), [("selu", torch.selu), ("gelu", torch.nn.functional.gelu)])
def test_gated_by_hand(gate, function):
    block = GatedFeedForward(1, mult=1, gate=gate).double()
    with torch.no_grad():
        block.expand.weight.copy_(torch.tensor([[2.0], [-3.0]]))
        block.expand.bias.copy_(torch.tensor([1.0, 0.5]))
        block.contract.weight.fill_(5.0)
        block.contract.bias.fill_(7.0)
    x = torch.tensor([[0.25], [-1.0]], dtype=torch.float64)
    expected = 5 * (2 * x + 1) * function(-3 * x + 0.5) + 7
    torch.testing.assert_close(block(x), expected)


def test_an_unknown_gate_is_refused():
    with pytest.raises(ValueError, match=r"^expected gate 'selu' or 'gelu', got 'relu'$"):
        GatedFeedForward(3, gate="relu")


def test_self_normalizing_keeps_mean_and_variance_through_twenty_layers():
    torch.manual_seed(0)
    layers = torch.nn.Sequential(*(SelfNormalizing(256, 256, dropout=0.05) for _ in range(20)))
    x = layers(torch.randn(512, 256))
    assert abs(x.mean().item()) < 0.1
    assert x.var().item() == pytest.approx(1, abs=0.25)


def test_dropout_is_the_last_step_and_for_training_alone():
    block = GatedFeedForward(3, dropout=0.5)
    x = torch.randn(1000, 3)
    kept = block.eval()(x)
    dropped = block.train()(x)
    assert (dropped == 0).double().mean().item() == pytest.approx(0.5, abs=0.05)
    torch.testing.assert_close(dropped[dropped != 0], 2 * kept[dropped != 0])
