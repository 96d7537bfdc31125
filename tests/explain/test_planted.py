"""Simulated cohorts in which 5% of the patches, or of the genes, carry the risk: which score finds them again?

`python tests/explain/test_planted.py` trains three models of each kind and prints the table of `healnet.explain`.
"""

import sys

import pytest
import torch

from healnet import HEALNet
from healnet.encoders import OmicEncoder, PatchEncoder
from healnet.explain import (
    activation_pattern,
    attention_scores,
    gradient_x_input,
    integrated_gradients,
    occlude,
)
from healnet.inputs import PatchBag
from healnet.survival import cox_nll

SIZES = {"depth": 1, "num_latents": 8, "latent_dim": 32, "num_heads": 2, "head_dim": 16}


def auroc(scores, planted):
    high, low = scores[planted].unsqueeze(1), scores[~planted]
    return float(((high > low).double() + (high == low) / 2).mean())


def outcome(risk, generator):
    """Exponential times, a fifth censored."""
    time = torch.empty(len(risk)).exponential_(generator=generator) * torch.exp(-2.5 * risk)
    return time, torch.rand(len(risk), generator=generator) < 0.8


def patches(patients, seed, n=60, width=16):
    """Planted patches have a mark in channel 0 and the patient's risk in channel 1; elsewhere channel 1 is noise."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(patients, n, width, generator=generator)
    risk = torch.randn(patients, generator=generator)
    planted = torch.rand(patients, n, generator=generator).argsort(dim=1) < n // 20
    features[..., 0] += 4.0 * planted
    own = 2 * risk.unsqueeze(1) + 0.5 * features[..., 1]
    features[..., 1] = torch.where(planted, own, 2 * features[..., 1])
    bag = PatchBag(features, torch.zeros(patients, n, 2), torch.ones(patients, n, dtype=torch.bool))
    return {"slide": bag}, planted, outcome(risk, generator)


def genes(patients, seed, f=100):
    """The risk is a sum over 5 of 100 independent genes, of both signs; the planted ones are the same in every cohort."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(patients, f, generator=generator)
    weights = torch.zeros(f)
    weights[torch.arange(5) * 17 + 3] = torch.tensor([0.6, -0.5, 0.5, -0.4, 0.4])
    return {"rna": values}, weights != 0, outcome(values @ weights, generator)


def rows(inputs, index):
    return {
        k: v[index] if isinstance(v, torch.Tensor) else type(v)(*[f[index] for f in v])
        for k, v in inputs.items()
    }


def trained(name, encoder, inputs, target, seed, epochs, rate):
    torch.manual_seed(seed)
    model = HEALNet({name: encoder()}, output="cox", **SIZES)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
    time, event = target
    for _ in range(epochs):
        for index in torch.randperm(len(time)).split(100):
            loss = cox_nll(model(rows(inputs, index)), time[index], event[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def patch_scores(seed, train=400, test=100, epochs=40):
    """AUROC within each patient, averaged over new patients."""
    inputs, _, target = patches(train, seed)
    model = trained("slide", lambda: PatchEncoder(16, positions=False), inputs, target, seed, epochs, 1e-3)
    new, planted, _ = patches(test, seed + 1000)
    found = {name: attention_scores(model, new, method=method)["slide"] for name, method in METHODS.items()}
    found["gradient_x_input"] = gradient_x_input(model, new, per_token=True)["slide"]
    found["integrated_gradients"] = integrated_gradients(model, new, steps=16)["slide"].sum(dim=2)
    found["occlude"] = occlude(model, new)["slide"]
    return {k: sum(map(auroc, s.abs(), planted)) / test for k, s in found.items()}


def gene_scores(seed, tokens, train=400, test=200, epochs=40, rate=2e-3):
    """AUROC of the mean size over new patients."""
    inputs, planted, target = genes(train, seed)
    model = trained("rna", lambda: OmicEncoder(100, tokens=tokens), inputs, target, seed, epochs, rate)
    new, _, _ = genes(test, seed + 1000)
    found = {}
    if tokens == "features":
        found = {name: attention_scores(model, new, method=method)["rna"] for name, method in METHODS.items()}
    found["gradient_x_input"] = gradient_x_input(model, new)["rna"]
    found["integrated_gradients"] = integrated_gradients(model, new, steps=16)["rna"]
    found["occlude"] = occlude(model, new)["rna"]
    found["activation_pattern"] = activation_pattern(model, new)["rna"].unsqueeze(0)
    return {k: auroc(s.abs().mean(dim=0), planted) for k, s in found.items()}


METHODS = {"mean_attention": "mean", "rollout": "rollout", "gradient_attention": "gradient"}


def test_the_best_score_finds_the_planted_patches():
    found = patch_scores(0, train=300, test=40, epochs=30)
    assert max(found.values()) >= 0.95, found


@pytest.mark.parametrize("tokens", [4, "features"])
def test_the_best_score_finds_the_planted_genes(tokens):
    found = gene_scores(0, tokens, train=300, test=50, epochs=15 if tokens == 4 else 40)
    assert max(found.values()) >= 0.95, found


if __name__ == "__main__":
    kinds = {
        "patches": patch_scores,
        "genes (a token each)": lambda seed: gene_scores(seed, "features"),
        "genes (4 learned tokens)": lambda seed: gene_scores(seed, 4),
    }
    for kind, simulate in kinds.items():
        runs = [simulate(seed) for seed in range(3)]
        mean = {k: sum(run[k] for run in runs) / 3 for k in runs[0]}
        sys.stdout.write(f"{kind}: " + ", ".join(f"{k} {v:.3f}" for k, v in mean.items()) + "\n")
        sys.stdout.flush()
