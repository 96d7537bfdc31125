"""Classes, survival, or both from one model: the loop is the same, the loss is the sum of what the heads answer.

    python examples/two_tasks.py --output results

Predicts the grade of a breast tumor (1 to 3) and the time to distant metastasis from the expression of 76 genes, in 198
patients, two of them without a grade. Three models on the same five folds: one with a head for the grade, trained with
cross-entropy, one with a head for survival, trained with Cox's loss, and one with both. `--quick` runs two folds.
"""

import argparse
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from tqdm import tqdm

from healnet import HEALNet
from healnet.data import Batch, Cohort, CohortDataset, Standardizer
from healnet.datasets import load_breast_cancer
from healnet.encoders import OmicEncoder
from healnet.fusion import MeanHead
from healnet.survival import SurvivalTarget, concordance, cox_nll

LATENTS, WIDTH = 8, 32
MODELS = {"grade alone": ("grade",), "survival alone": ("survival",), "both": ("grade", "survival")}


class Heads(nn.ModuleDict):
    """One head per task, each from the same latents: (b, m, d) -> task -> (b, out_dim)."""

    def forward(self, latents: Tensor) -> dict[str, Tensor]:
        """Every head's output."""
        return {task: head(latents) for task, head in self.items()}


def loss_of(outputs: dict[str, Tensor], batch: Batch) -> Tensor:
    """The sum over tasks; patients without a grade (-100) have a part in survival only."""
    losses = []
    if "grade" in outputs:
        losses.append(F.cross_entropy(outputs["grade"], batch.labels["grade"]))
    if "survival" in outputs:
        losses.append(cox_nll(outputs["survival"], batch.time, batch.event))
    return torch.stack(losses).sum()


def load() -> Cohort:
    """Genes as the only input, the grade as a label of three classes, metastasis as the outcome."""
    cohort = load_breast_cancer()
    grade = cohort.table("clinical")["grade"].astype("Int64").astype("category")
    tables = {"genes": cohort.table("genes")}
    return Cohort(tables, cohort.target, cohort.patients, labels={"grade": grade})


def train(batch: Batch, genes: int, tasks: tuple[str, ...], seed: int, steps: int = 60) -> HEALNet:
    """A plain loop; the cohort is one batch."""
    torch.manual_seed(seed)
    sizes = {"grade": 3, "survival": 1}
    model = HEALNet(
        {"genes": OmicEncoder(genes, tokens=4, input_dropout=0.5)},
        num_latents=LATENTS,
        latent_dim=WIDTH,
        num_heads=1,
        self_attention=0,
        ff_mult=1,
        head=Heads({task: MeanHead(WIDTH, sizes[task]) for task in tasks}),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.3)
    for _ in range(steps):
        loss = loss_of(model(batch.inputs), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def score(model: HEALNet, batch: Batch) -> dict[str, float]:
    """Area under the ROC curve, mean over pairs of grades, and Harrell's C."""
    outputs, scores = model(batch.inputs), {}
    if "grade" in outputs:
        known = batch.labels["grade"] >= 0
        probabilities = outputs["grade"][known].double().softmax(dim=1)
        scores["grade, AUC"] = roc_auc_score(batch.labels["grade"][known], probabilities, multi_class="ovo")
    if "survival" in outputs:
        scores["survival, C"] = concordance(outputs["survival"], SurvivalTarget(batch.time, batch.event))
    return scores


def main() -> None:
    """Cross-validate the three models and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("results"))
    parser.add_argument("--quick", action="store_true", help="two folds instead of five")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # operations this small only wait for a second thread
    cohort, rows = load(), []
    folds = cohort.folds(5, seed=0)[: 2 if options.quick else 5]
    for fold, (seen, new) in enumerate(tqdm(folds, desc="fold")):
        scaler = Standardizer().fit(cohort[seen])
        batch, held_out = (CohortDataset(scaler.transform(cohort[part])).batch() for part in (seen, new))
        for name, tasks in MODELS.items():
            scores = score(train(batch, cohort.widths["genes"], tasks, fold), held_out)
            rows.append({"model": name, "fold": fold, **scores})
    table = pd.DataFrame(rows)
    table.to_csv(options.output / "two_tasks.csv", index=False)
    means = table.drop(columns="fold").groupby("model", sort=False).agg(["mean", "std"])
    print(f"\nTest folds\n\n{means.to_string(float_format='{:.3f}'.format, na_rep='-')}")


if __name__ == "__main__":
    main()
