import numpy as np
import torch

from healnet.baselines import MCAT, CoAttention
from healnet.encoders import OmicEncoder, PatchEncoder


def test_co_attention_by_numpy():
    torch.manual_seed(0)
    layer = CoAttention(3).double()
    guides, bag = torch.randn(1, 2, 3, dtype=torch.float64), torch.randn(1, 5, 3, dtype=torch.float64)
    mask = torch.tensor([[True, True, False, True, True]])
    p = {name: x.detach().numpy() for name, x in layer.named_parameters()}
    g, h = guides[0].numpy(), bag[0].numpy()[mask[0].numpy()]
    scores = (g @ p["to_q.weight"].T) @ (h @ p["to_k.weight"].T).T / np.sqrt(3)
    weights = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    expected = weights @ (h @ p["to_v.weight"].T)
    got = layer(guides, torch.ones(1, 2, dtype=torch.bool), bag, mask)[0]
    np.testing.assert_allclose(got.detach(), expected, rtol=0, atol=1e-12)


def test_both_summaries_reach_the_head():
    """The output is the head of guide and bag summary, each from its own branch."""
    torch.manual_seed(0)
    encoders = {"rna": OmicEncoder(5, 3, token_dim=6), "slide": PatchEncoder(7, positions=False)}
    model = MCAT(encoders, "slide", out_dim=2, dim=8, num_heads=2).double().eval()
    rna, slide = torch.randn(2, 5, dtype=torch.float64), torch.randn(2, 4, 7, dtype=torch.float64)
    guides = model.embed_guides["rna"](encoders["rna"](rna).values)
    bag = model.embed_bag(slide)
    every, all_patches = torch.ones(2, 3, dtype=torch.bool), torch.ones(2, 4, dtype=torch.bool)
    read = model.co_attention(guides, every, bag, all_patches)
    summaries = torch.cat((model.guide_summary(guides, every), model.bag_summary(read, every)), dim=1)
    torch.testing.assert_close(model({"rna": rna, "slide": slide}), model.head(summaries))


def test_without_a_bag_the_head_reads_a_zero_summary_of_it():
    torch.manual_seed(0)
    encoders = {"rna": OmicEncoder(5, 3, token_dim=6), "slide": PatchEncoder(7, positions=False)}
    model = MCAT(encoders, "slide", dim=8, num_heads=2, missing="zero").double().eval()
    rna = torch.randn(2, 5, dtype=torch.float64)
    guides = model.embed_guides["rna"](encoders["rna"](rna).values)
    summary = model.guide_summary(guides, torch.ones(2, 3, dtype=torch.bool))
    expected = model.head(torch.cat((summary, torch.zeros_like(summary)), dim=1))
    torch.testing.assert_close(model({"rna": rna}), expected)


def test_number_of_parameters():
    d = 16
    model = MCAT(
        {"rna": OmicEncoder(5, 3, token_dim=6), "slide": PatchEncoder(7, positions=False)}, "slide", dim=d
    )
    linear = d * d + d
    block = 4 * linear + (d * 2 * d + 2 * d) + (2 * d * d + d) + 2 * 2 * d
    summary = 2 * block + 2 * linear + d + 1
    encoders = 5 * 18 + 18
    head = 2 * d * d + d + linear + d + 1
    assert sum(p.numel() for p in model.parameters()) == (
        encoders + (6 * d + d) + (7 * d + d) + 3 * d * d + 2 * summary + head
    )
