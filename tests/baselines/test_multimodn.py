import numpy as np
import torch

from healnet import Masked
from healnet.baselines import MultiModN
from healnet.encoders import OmicEncoder

NAMES = ("rna", "cnv", "mut")


def build():
    torch.manual_seed(0)
    return (
        MultiModN({n: OmicEncoder(3, "vector") for n in NAMES}, out_dim=2, dim=5, state_dim=4).double().eval()
    )


def batch():
    return {name: torch.randn(2, 3, dtype=torch.float64) for name in NAMES}


def test_states_by_the_papers_recursion():
    model, inputs = build(), batch()
    del inputs["cnv"]
    inputs["mut"] = Masked(inputs["mut"], torch.tensor([True, False]))
    p = {name: x.detach().numpy() for name, x in model.named_parameters()}
    vectors, _ = model.embed({name: model.encoders[name](x) for name, x in inputs.items()}, 2)
    has = {"rna": (True, True), "cnv": (False, False), "mut": (True, False)}
    for row in range(2):
        state = p["state"]
        expected = [p["decoder.weight"] @ state + p["decoder.bias"]]
        for i, name in enumerate(NAMES):
            if has[name][row]:
                x = np.concatenate((state, vectors[row, i].detach().numpy()))
                hidden = np.maximum(p[f"updates.{name}.0.weight"] @ x + p[f"updates.{name}.0.bias"], 0)
                state = p[f"updates.{name}.3.weight"] @ hidden + p[f"updates.{name}.3.bias"]
            expected.append(p["decoder.weight"] @ state + p["decoder.bias"])
        np.testing.assert_allclose(model.steps(inputs)[row].detach(), expected, rtol=0, atol=1e-12)
        np.testing.assert_allclose(model(inputs)[row].detach(), expected[-1], rtol=0, atol=1e-12)


def test_the_order_of_the_encoders_is_the_order_of_the_updates():
    model, inputs = build(), batch()
    assert torch.equal(model(inputs), model(dict(reversed(inputs.items()))))
    steps, first = model.steps(inputs), model.steps({"rna": inputs["rna"]})
    assert steps.shape == (2, 4, 2)
    torch.testing.assert_close(steps[:, :2], first[:, :2])
    assert torch.equal(first[:, 1], first[:, 3])


def test_who_has_nothing_is_decoded_from_the_first_state():
    model = build()
    torch.testing.assert_close(model({})[0], model.decoder(model.state))


def test_number_of_parameters():
    embedding = (3 * 5 + 5) + (5 * 5 + 5) + 2 * (5 * 5 + 5) + 5 + 1
    update = 9 * 5 + 5 + 5 * 4 + 4
    assert sum(p.numel() for p in build().parameters()) == 3 * (embedding + update) + 4 + 4 * 2 + 2
