"""The mini-ACC cohort: 92 patients with adrenocortical carcinoma, five assays, real gaps."""

from __future__ import annotations

import zipfile
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np

from healnet.survival.target import SurvivalTarget

if TYPE_CHECKING:
    import pandas as pd

    from healnet.data.cohort import Cohort

__all__ = ["load_mini_acc"]

_STAGE = {"stage i": 1.0, "stage ii": 2.0, "stage iii": 3.0, "stage iv": 4.0}
_T = {"t1": 1.0, "t2": 2.0, "t3": 3.0, "t4": 4.0}
_N = {"n0": 0.0, "n1": 1.0}
_SEX = {"male": 0.0, "female": 1.0}


def load_mini_acc() -> Cohort:
    """Adrenocortical carcinoma in The Cancer Genome Atlas, as Bioconductor's `miniACC` holds it.

    92 patients, 34 deaths, overall survival in days. 43 patients have all five assays.

    ============ ======== ======== ==========================================================================
    modality     patients features values
    ============ ======== ======== ==========================================================================
    `clinical`         92        5 `age` in years, `is_female`, and the ordinal codes `stage` 1-4, `t` 1-4, `n` 0-1
    `rna`              79      198 expression, log2(1 + normalized RSEM count)
    `cnv`              90      198 copy number by GISTIC, -2 (deep loss) to 2 (amplification)
    `protein`          46       33 reverse-phase protein array, as released (log scale, median-centered)
    `mutations`        90       97 1 = a non-silent mutation in the gene
    `mirna`            80      471 microRNA, log2(1 + reads per million of these 471)
    ============ ======== ======== ==========================================================================

    Stage, T and N of two patients are unknown (missing cells). No transform here is fitted to the cohort; standardize with
    `healnet.data.Standardizer` on training patients. Left out of `clinical`, because they are results of the study, or
    treatment, or follow-up rather than baseline: molecular subtypes and clusters, purity, ploidy, genome doublings,
    `residual_tumor`, `radiation_therapy`, `number_of_lymph_nodes` (a finding of surgery, unknown for two thirds), and
    race and ethnicity (one group but for three patients).

    One patient, TCGA-P6-A5OH (stage IV), died on the day of diagnosis. The time stays 0 days and the event stays an
    event: both are as recorded, every loss and metric here takes time 0, and leaving out a death would make the cohort
    look healthier.

    Source and license: `mini_acc.md` beside this module.

    Example:
        >>> load_mini_acc()
        Cohort(92 patients, 34 events, clinical 92x5, rna 79x198, cnv 90x198, protein 46x33, mutations 90x97, mirna 80x471)
    """
    from healnet.data import Cohort

    clinical = _read("clinical")
    time = clinical["days_to_death"].fillna(clinical["days_to_last_followup"])
    target = SurvivalTarget(time.to_numpy(), clinical["vital_status"].to_numpy())
    tables = {
        "clinical": _encode(clinical),
        "rna": _log2(_read("RNASeq2GeneNorm")),
        "cnv": _read("gistict"),
        "protein": _read("RPPAArray"),
        "mutations": _read("Mutations"),
        "mirna": _log2(_per_million(_read("miRNASeqGene"))),
    }
    return Cohort(tables, target, clinical.index)


def _encode(clinical: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(
        {
            "age": clinical["years_to_birth"].astype(float),
            "is_female": clinical["gender"].map(_SEX),
            "stage": clinical["pathologic_stage"].map(_STAGE),
            "t": clinical["pathology_T_stage"].map(_T),
            "n": clinical["pathology_N_stage"].map(_N),
        }
    )


def _per_million(reads: pd.DataFrame) -> pd.DataFrame:
    """Scale each patient's reads to a million: the depth of sequencing varies ninefold here, and is no trait of a tumor."""
    return reads.div(reads.sum(axis=1), axis=0) * 1e6


def _log2(counts: pd.DataFrame) -> pd.DataFrame:
    return counts.add(1).apply(np.log2)


def _read(name: str) -> pd.DataFrame:
    import pandas as pd

    packed = resources.files("healnet.datasets").joinpath("mini_acc.zip")
    with packed.open("rb") as file, zipfile.ZipFile(file) as archive, archive.open(f"{name}.csv") as member:
        return pd.read_csv(member, index_col=0)
