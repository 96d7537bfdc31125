"""Explain HEALNet on a real cohort: its genes, its modalities, how faithful the scores are, and a report of one patient.

    python examples/explain_mini_acc.py --output explained

Trains the main job's model on the training folds of mini-ACC and explains it on the test folds, so that every patient is
explained by models that never saw them. Writes `genes.csv` (every gene's rank under each method), `genes.png`,
`gene_sets.png`, `modalities.png`, `faithfulness.png` and `report_<patient>.html`. `--quick` trains one model on two folds.
"""

import argparse
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from healnet import HEALNet
from healnet.data import Batch, Cohort, CohortDataset
from healnet.datasets import load_mini_acc
from healnet.explain import (
    ModalityShapley,
    activation_pattern,
    attention_scores,
    faithfulness,
    gene_set_scores,
    gradient_x_input,
    input_gradients,
    integrated_gradients,
    occlude,
    patient_report,
    plot_contribution_bars,
    plot_faithfulness,
    plot_gene_bars,
    rank_genes,
    shapley_modalities,
)
from healnet.survival import BreslowBaseline, concordance
from healnet.training import Recipe, fit_ensemble

# Members of the cohort's 198 genes, by what they do.
GENE_SETS = {
    "cell cycle": "FOXM1 CDK1 CCNB1 CCNE1 CCNE2 CCND1 E2F1 PCNA TYMS ANLN STMN1 EZH2 CHEK1 CHEK2 RB1 CDKN1A CDKN1B CDKN2A",
    "DNA repair": "ATM BRCA2 RAD50 RAD51 MRE11A XRCC1 XRCC5 ERCC1 MSH2 MSH6 PARP1 TP53BP1 BAP1",
    "apoptosis": "BAX BAK1 BAD BID BCL2 BCL2L1 BCL2L11 CASP3 CASP7 CASP8 CASP9 XIAP BIRC2 DIABLO",
    "PI3K, AKT, mTOR": "PIK3CA PIK3R1 PIK3R2 AKT1 AKT2 AKT3 PTEN MTOR RPTOR RICTOR TSC1 TSC2 RPS6 RPS6KB1 EIF4EBP1 PDK1",
    "RAS, MAPK": "KRAS NRAS BRAF ARAF RAF1 MAP2K1 MAPK1 MAPK3 MAPK8 MAPK9 MAPK14 SHC1",
    "Wnt, adhesion": "CTNNB1 CTNNA1 CDH1 CDH2 CDH3 GSK3A GSK3B DVL3 CLDN7 FN1 ITGA2",
}
RECIPE = Recipe()  # of examples/mini_acc.py
# Every gene a token, so that attention ranks genes: more to learn, so twice as long.
BY_GENE = replace(RECIPE, feature_tokens=("rna",), epochs=2 * RECIPE.epochs)


def explain(model: HEALNet, by_gene: HEALNet, batch: Batch, shares: ModalityShapley) -> dict[str, Tensor]:
    """Scores of the genes of those who have RNA, (patients, genes) each; a pattern is one row."""
    inputs, has = batch.inputs, batch.inputs["rna"].mask.any(dim=1)
    found = {
        "gradient x input": gradient_x_input(model, inputs)["rna"],
        "occlusion": occlude(model, inputs, modalities=["rna"])["rna"],
        "attention (a token each)": attention_scores(by_gene, inputs, method="mean")["rna"],
        "rollout (a token each)": attention_scores(by_gene, inputs, method="rollout")["rna"],
        "gradient attention (a token each)": attention_scores(by_gene, inputs)["rna"],
        "gradient": input_gradients(model, inputs)["rna"],
        "integrated gradients": integrated_gradients(model, inputs)["rna"],
    }
    found = {method: scores[has] for method, scores in found.items()}
    found["activation pattern"] = activation_pattern(model, inputs, modalities=["rna"], outcome=shares)[
        "rna"
    ].unsqueeze(0)
    return found


def draw(scores: dict[str, list[Tensor]], names: list[str], output: Path) -> pd.DataFrame:
    """The table of ranks, the most important genes and gene sets."""
    columns = {}
    for method in scores:
        importance = np.stack([fold.abs().mean(dim=0).numpy() for fold in scores[method]])
        columns[method] = rank_genes(names, importance, repeats=importance)["rank"]
    ranks = pd.DataFrame(columns).sort_values("gradient x input")
    ranks.to_csv(output / "genes.csv", index_label="gene")

    terms, slopes = torch.cat(scores["gradient x input"]).numpy(), torch.cat(scores["gradient"]).numpy()
    repeats = np.stack([fold.abs().mean(dim=0).numpy() for fold in scores["gradient x input"]])
    patterns = torch.cat(scores["activation pattern"]).numpy()
    figure = Figure(figsize=(11, 6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for ax, title, table in (
        (left, "What the model reads: gradient x input", rank_genes(names, terms, slopes, repeats, k=20)),
        (
            right,
            "What goes along with it: pattern",
            rank_genes(names, patterns, patterns, np.abs(patterns), k=20),
        ),
    ):
        plot_gene_bars(table.index, table["score"], table["direction"], table["stability"], ax=ax)
        ax.set_title(title)
    figure.savefig(output / "genes.png", dpi=150)

    sets = {name: genes.split() for name, genes in GENE_SETS.items()}
    found, sums = gene_set_scores(names, terms, sets)
    _, directions = gene_set_scores(names, slopes, sets)
    ax = plot_gene_bars(found, np.abs(sums).mean(axis=0), np.sign(directions.mean(axis=0)))
    ax.figure.savefig(output / "gene_sets.png", dpi=150)
    return ranks


def write_report(
    model: HEALNet, seen: Cohort, new: Cohort, unscaled: Cohort, output: Path, maps: Mapping[str, Any]
) -> Path:
    """Report the patient of highest risk in a test fold; the curve stands on the training patients' baseline."""
    inputs = CohortDataset(new).batch().inputs
    with torch.no_grad():
        trained = model(CohortDataset(seen).batch().inputs)
        risks = model(inputs)
    worst = int(risks.argmax())
    baseline = BreslowBaseline.fit(trained, seen.target)
    tables = {name: unscaled.table(name).iloc[worst] for name in ("rna", "clinical", "protein")}
    return patient_report(
        model,
        CohortDataset(new[[worst]]).batch().inputs,
        str(new.patients[worst]),
        output,
        curve=(baseline.times, baseline.survival(risks[worst], baseline.times)[0]),
        curve_steps=True,
        cohort_risks=trained.squeeze(1),
        features=tables,
        maps=maps,
        details={"cohort": "mini-ACC"},
    ).path


def main() -> None:
    """Train over folds, explain the held-out patients, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("explained"))
    parser.add_argument("--quick", action="store_true", help="one model on two of the folds")
    options = parser.parse_args()
    torch.set_num_threads(1)  # operations this small only wait for a second thread
    options.output.mkdir(parents=True, exist_ok=True)
    cohort = load_mini_acc()
    names = list(cohort.table("rna").columns)
    folds = cohort.folds(5, seed=0)[: 2 if options.quick else 5]
    recipes = [replace(r, members=1) if options.quick else r for r in (RECIPE, BY_GENE)]

    scores, shares, c_index = defaultdict(list), [], []
    for fold, (train, test) in enumerate(bar := tqdm(folds, desc="fold")):
        ensemble, by_gene = (fit_ensemble(cohort[train], recipe, fold) for recipe in recipes)
        seen, new = (ensemble.scaler.transform(cohort[rows]) for rows in (train, test))
        batch, own = CohortDataset(new).batch(), defaultdict(list)
        for model, gene_model in zip(ensemble.models, by_gene.models, strict=True):
            modalities = shapley_modalities(model, batch.inputs)
            for method, found in explain(model, gene_model, batch, modalities).items():
                own[method].append(found)
        for method, found in own.items():
            scores[method].append(torch.stack(found).mean(dim=0))
        shares.append(modalities)
        c_index.append(concordance(ensemble.predict(cohort[test]), new.target))
        bar.set_postfix(c=f"{np.mean(c_index):.3f}")
        if fold == 0:
            rna = batch.inputs["rna"].mask.any(dim=1)
            curves = {
                "gradient x input": gradient_x_input(model, batch.inputs)["rna"],
                "occlusion": occlude(model, batch.inputs, modalities=["rna"])["rna"],
            }
            curves = {k: faithfulness(model, batch.inputs, {"rna": v}) for k, v in curves.items()}
            picture = plot_faithfulness(curves, quantity="log hazard")
            picture.figure.savefig(options.output / "faithfulness.png", dpi=150)
            areas = ", ".join(f"{k} {v.area_above_random()[rna].mean():+.2f}" for k, v in curves.items())
            path = write_report(
                model,
                seen,
                new,
                cohort[test],
                options.output,
                {"Are the gene scores faithful to the model?": picture},
            )

    ranks = draw(scores, names, options.output)
    values = {name: torch.cat([s[name] for s in shares]) for name in shares[0]}
    has = {name: torch.cat([s.has[name] for s in shares]) for name in shares[0]}
    ax = plot_contribution_bars(values, has, quantity="log hazard")
    ax.figure.savefig(options.output / "modalities.png", dpi=150)
    print(f"\nHarrell's C on the test folds: {np.mean(c_index):.3f}")
    print(f"\nRanks among {len(names)} RNA genes:\n{ranks.loc[['FOXM1', 'CDK1']].T.to_string()}")
    print(f"\nFaithfulness (insertion less deletion area, against random orders): {areas}")
    print(f"\nPictures, genes.csv and {path.name} are in {options.output}")


if __name__ == "__main__":
    main()
