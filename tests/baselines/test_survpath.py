import numpy as np
import torch

from healnet.baselines import SurvPath
from healnet.encoders import OmicEncoder, PatchEncoder


def build(**options):
    torch.manual_seed(0)
    encoders = {"rna": OmicEncoder(5, 3, token_dim=6), "slide": PatchEncoder(7, positions=False)}
    return SurvPath(encoders, "slide", out_dim=2, dim=8, **options).double().eval()


def test_one_softmax_in_which_patches_do_not_attend_to_patches():
    """The whole matrix of scores, with -inf in its lower right corner, as the paper writes it."""
    model = build()
    rna, slide = torch.randn(1, 5, dtype=torch.float64), torch.randn(1, 4, 7, dtype=torch.float64)
    p = {name: x.detach().numpy() for name, x in model.named_parameters()}

    def layer(x, prefix):
        return x @ p[f"{prefix}.weight"].T + p[f"{prefix}.bias"]

    with torch.no_grad():
        guides = model.embed_guides["rna"](model.encoders["rna"](rna).values)[0]
        x = model.norm(torch.cat((guides, model.embed_bag(slide)[0]))).numpy()
    q, k, v = (layer(x, f"attention.to_{name}") for name in "qkv")
    scores = q @ k.T / np.sqrt(8)
    scores[3:, 3:] = -np.inf
    weights = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    attended = torch.from_numpy(layer(weights @ v, "attention.to_out"))
    mixed = model.feed_forward(attended)
    expected = model.head(torch.cat((mixed[:3].mean(0), mixed[3:].mean(0))))
    torch.testing.assert_close(model({"rna": rna, "slide": slide})[0], expected, rtol=0, atol=1e-12)


def test_means_are_over_the_real_tokens_and_zero_for_none():
    model = build(missing="zero")
    rna = torch.randn(2, 5, dtype=torch.float64)
    weight, bias = model.head.weight, model.head.bias
    alone = model({"rna": rna})
    guides = model.norm(model.embed_guides["rna"](model.encoders["rna"](rna).values))
    everyone = torch.ones(2, 3, dtype=torch.bool)
    mean = model.feed_forward(model.attention(guides, guides, everyone)).mean(1)
    torch.testing.assert_close(alone, mean @ weight[:, :8].T + bias)


def test_number_of_parameters():
    linear = 8 * 8 + 8
    expected = (5 * 18 + 18) + (6 * 8 + 8) + (7 * 8 + 8) + 16 + 4 * linear + 2 * linear + 16 + 16 * 2 + 2
    assert sum(p.numel() for p in build().parameters()) == expected
