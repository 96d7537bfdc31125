import pytest
import torch
from torch import nn

from healnet._evaluation import evaluating


def test_every_modules_own_mode_comes_back_even_after_an_error():
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm1d(3)))
    model[1].eval()
    modes = [module.training for module in model.modules()]

    def fail():
        with evaluating(model):
            assert not any(module.training for module in model.modules())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [module.training for module in model.modules()] == modes == [True, True, False, False]
    with evaluating(torch.sin):  # nothing to switch
        pass
