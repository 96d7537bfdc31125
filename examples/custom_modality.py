"""A modality and a way to fuse of your own: written, checked with the kit, trained on real data.

    python examples/custom_modality.py --output results

The encoder turns a table of mutations into a *set*: one token per gene that is mutated in the patient, none for the others.
The fusion layer lets the clinical table open or close a gate in front of what every other modality says. Both are a
subclass with one method; `healnet.testing` checks that they keep the library's laws.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from healnet import HEALNet, Masked, Tokens
from healnet.data import Cohort, CohortDataset, Standardizer
from healnet.datasets import load_mini_acc
from healnet.encoders import ModalityEncoder, OmicEncoder, element_mask, unmask
from healnet.fusion import FusionLayer, HybridFusionLayer, TraceRecorder
from healnet.survival import concordance, cox_nll
from healnet.testing import check_encoder, check_fusion_layer, check_model


class MutatedGenes(ModalityEncoder):
    """(b, genes), above `threshold` where mutated -> a learned token per mutated gene, and one that says "measured"."""

    def __init__(self, genes: int, token_dim: int = 16, threshold: float = 0.0) -> None:
        super().__init__()
        self.token_dim = token_dim
        self.threshold = threshold
        self.embedding = nn.Parameter(torch.randn(genes + 1, token_dim))

    def forward(self, inputs: Tensor | Masked) -> Tokens:
        """Mask the tokens of genes that are not mutated."""
        values, mask = unmask(inputs)
        genes = len(self.embedding) - 1
        if values.dim() != 2 or values.shape[1] != genes:
            raise ValueError(f"expected a shape of (b, {genes}), got {tuple(values.shape)}")
        mask = element_mask(mask, values.shape)
        known = torch.ones_like(values, dtype=torch.bool) if mask is None else mask
        mutated = (values > self.threshold) & known
        measured = known.any(dim=1, keepdim=True)  # a patient without mutations is not one without the test
        tokens = self.embedding.expand(len(values), -1, -1)
        return Tokens(tokens, torch.cat((mutated, measured), dim=1))


class ClinicallyGated(FusionLayer):
    """S <- S + gate(clinical) * (layer(S) - S), for the modalities besides the clinical one."""

    def __init__(self, latent_dim: int, token_dims: Mapping[str, int], clinical: str = "clinical") -> None:
        super().__init__()
        self.clinical = clinical
        options = {"num_heads": 2, "head_dim": 16, "self_attention": 0, "ff_mult": 1}
        rest = {name: width for name, width in token_dims.items() if name != clinical}
        self.read_clinical = HybridFusionLayer(latent_dim, {clinical: token_dims[clinical]}, **options)
        self.read_rest = HybridFusionLayer(latent_dim, rest, **options)
        self.gate = nn.Linear(token_dims[clinical], latent_dim)

    def forward(
        self, latents: Tensor, tokens: Mapping[str, Tokens], recorder: TraceRecorder | None = None
    ) -> Tensor:
        """Read the clinical table, then let through as much of the rest as it says."""
        first = {name: x for name, x in tokens.items() if name == self.clinical}
        rest = {name: x for name, x in tokens.items() if name != self.clinical}
        latents = self.read_clinical(latents, first, recorder)
        update = self.read_rest(latents, rest, recorder) - latents
        gate = self.gate.bias
        if first:
            # Masked tokens are zero when standardized: divide by how many are real, not by how many there are.
            x = first[self.clinical]
            real = x.values.shape[1] if x.mask is None else x.mask.sum(dim=1).clamp(min=1)[:, None, None]
            gate = self.gate(x.standardized(latents.dtype).sum(dim=1, keepdim=True) / real)
        return latents + torch.sigmoid(gate) * update


def build(cohort: Cohort) -> HEALNet:
    """Clinical table and RNA as usual, mutations as a set, fused by two gated layers."""
    encoders: dict[str, ModalityEncoder] = {
        "clinical": OmicEncoder(cohort.widths["clinical"], tokens=4, token_dim=16, input_dropout=0.3),
        "rna": OmicEncoder(cohort.widths["rna"], tokens=4, token_dim=16, input_dropout=0.5),
        "mutations": MutatedGenes(cohort.widths["mutations"]),
    }
    dims = {name: encoder.token_dim for name, encoder in encoders.items()}
    layers = [ClinicallyGated(32, dims) for _ in range(2)]
    return HEALNet(encoders, num_latents=8, latent_dim=32, layers=layers, output="cox")


def check() -> None:
    """The laws, on small random inputs. Each line raises `LawBrokenError` with the law that is broken."""
    mutations = torch.randn(3, 7)
    check_encoder(MutatedGenes(7), mutations)
    check_encoder(MutatedGenes(7), Masked(mutations, torch.rand(3, 7) < 0.8))
    check_fusion_layer(ClinicallyGated(16, {"clinical": 3, "rna": 5}), 16, {"clinical": 3, "rna": 5})


def main() -> None:
    """Check, then cross-validate on mini-ACC."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("results"))
    parser.add_argument("--quick", action="store_true", help="two folds instead of five")
    options = parser.parse_args()
    torch.set_num_threads(1)  # operations this small only wait for a second thread
    check()
    print("the encoder and the fusion layer keep the laws")
    cohort = load_mini_acc()
    scores = []
    folds = list(cohort.folds(5, seed=0))[: 2 if options.quick else 5]
    for number, (train, test) in enumerate(tqdm(folds, desc="folds")):
        torch.manual_seed(number)
        scaler = Standardizer().fit(cohort[train])
        batch, held_out = (CohortDataset(scaler.transform(cohort[rows])).batch() for rows in (train, test))
        model = build(cohort)
        inputs, unseen = ({name: b.inputs[name] for name in model.encoders} for b in (batch, held_out))
        if number == 0:
            check_model(model, {name: x.values[:3] for name, x in inputs.items()})
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.3)
        for _ in range(30):
            loss = cox_nll(model(inputs), batch.time, batch.event)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            risk, trace = model.trace(unseen)
        scores.append(concordance(risk, cohort.target[test]))
    options.output.mkdir(parents=True, exist_ok=True)
    rows = [f"{number},{score:.4f}" for number, score in enumerate(scores)]
    (options.output / "custom_modality.csv").write_text("\n".join(["fold,c_index", *rows]) + "\n")
    print(f"Harrell's C on {len(scores)} test folds: {np.mean(scores):.3f} ({np.std(scores):.3f})")
    print(f"attention to mutated genes, layers x patients x genes: {tuple(trace['mutations'].shape)}")


if __name__ == "__main__":
    main()
