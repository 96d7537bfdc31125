"""From a user's own files to a cohort: as few lines as the README promises."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from healnet.data import Cohort, CohortDataset, encode_clinical, read_matrix, tcga_patients
from healnet.survival import SurvivalTarget

TABLES = Path(__file__).parents[1] / "reference" / "tables"
STAGES = ["STAGE I", "STAGE II", "STAGE III", "STAGE IV"]


def test_three_files_make_a_cohort_in_six_lines():
    clinical = pd.read_csv(
        TABLES / "cbioportal_data_clinical_patient.txt", sep="\t", comment="#", index_col=0
    )
    target = SurvivalTarget.from_frame(clinical, "OS_MONTHS", "OS_STATUS")
    findings = encode_clinical(clinical[["SEX", "AGE", "AJCC_PATHOLOGIC_TUMOR_STAGE"]], ordinal={"AJCC_PATHOLOGIC_TUMOR_STAGE": STAGES}, one_hot=["SEX"])  # fmt: skip  # noqa: E501
    rna = tcga_patients(read_matrix(TABLES / "xena_HiSeqV2.gz", genes_in_rows=True))
    cnv = tcga_patients(read_matrix(TABLES / "cbioportal_data_cna.txt", genes_in_rows=True))
    cohort = Cohort({"clinical": findings, "rna": rna, "cnv": cnv}, target, clinical.index)

    assert repr(cohort) == "Cohort(4 patients, 2 events, clinical 4x4, rna 3x3, cnv 3x2)"
    # The primary tumor of A5J3, though its metastasis comes first; A5HB has normal tissue only.
    assert cohort.table("rna").loc["TCGA-OR-A5J3", "TP53"] == 11.0101
    assert cohort.missing().loc["TCGA-PK-A5HB"].tolist() == [False, True, True]
    np.testing.assert_array_equal(cohort.table("clinical").loc["TCGA-OR-A5J3"], [1, 0, np.nan, np.nan])
    assert cohort.target.event.tolist() == [True, True, False, False]


def test_one_more_modality():
    cnv = tcga_patients(read_matrix(TABLES / "cbioportal_data_cna.txt", genes_in_rows=True))
    cohort = Cohort({"cnv": cnv}, labels={"grade": ["low", "high", "low"]})
    more = cohort.with_modality("ct", {"TCGA-OR-A5J2": torch.ones(2, 3, 1)})
    assert repr(more) == "Cohort(3 patients, label grade, cnv 3x2, ct 1)"
    assert cohort.modalities == ("cnv",)
    with pytest.raises(ValueError, match=r"^the cohort already has a modality 'cnv'$"):
        cohort.with_modality("cnv", cnv)
    with pytest.raises(ValueError, match=r"^modality 'x': patient 'q' is not in the cohort"):
        cohort.with_modality("x", cnv.rename(index={"TCGA-OR-A5J2": "q"}))
    extra = pd.concat([cnv, cnv.iloc[:1].rename(index={"TCGA-OR-A5J1": "q"})])
    assert cohort.with_modality("x", extra, unknown="drop").dropped == {"x": ("q",)}


def test_anndata_goes_straight_in_and_stays_sparse_until_a_batch():
    import anndata
    from scipy import sparse

    counts = sparse.csr_matrix(np.array([[0, 3.0, 0], [1.0, 0, 0]], dtype=np.float32))
    names = pd.DataFrame(index=["TP53", "MYC", "KRAS"])
    adata = anndata.AnnData(counts, obs=pd.DataFrame(index=["p3", "p1"]), var=names)
    age = pd.DataFrame({"age": [50.0, 60.0, 70.0]}, index=["p1", "p2", "p3"])
    cohort = Cohort({"age": age, "rna": adata}, None, ["p1", "p2", "p3"])
    assert sparse.issparse(cohort.modality("rna").rows)
    assert cohort.modality("rna").rows.nnz == 2
    assert repr(cohort) == "Cohort(3 patients, age 3x1, rna 2x3)"
    assert cohort.missing()["rna"].tolist() == [False, True, False]
    batch = CohortDataset(cohort[[2, 1, 0]]).batch()
    assert batch.inputs["rna"].values.tolist() == [[0, 3, 0], [0, 0, 0], [1, 0, 0]]
    assert batch.inputs["rna"].mask.tolist() == [[True] * 3, [False] * 3, [True] * 3]
    np.testing.assert_array_equal(cohort.table("rna"), [[1, 0, 0], [np.nan] * 3, [0, 3, 0]])
    dense = anndata.AnnData(counts.toarray(), obs=adata.obs, var=names)
    pd.testing.assert_frame_equal(Cohort({"rna": dense}).table("rna"), Cohort({"rna": adata}).table("rna"))


def test_a_backed_anndata_is_read(tmp_path):
    import anndata

    obs, var = pd.DataFrame(index=["p1", "p2"]), pd.DataFrame(index=["TP53"])
    anndata.AnnData(np.array([[1.0], [2.0]]), obs=obs, var=var).write_h5ad(tmp_path / "a.h5ad")
    backed = anndata.read_h5ad(tmp_path / "a.h5ad", backed="r")
    assert Cohort({"rna": backed}).table("rna")["TP53"].tolist() == [1.0, 2.0]
    backed.file.close()


@pytest.mark.filterwarnings("ignore::FutureWarning:mudata")
def test_mudata_is_a_cohort_of_its_modalities():
    import anndata
    import mudata

    def modality(ids, genes):
        values = np.arange(float(len(ids) * len(genes))).reshape(len(ids), -1)
        return anndata.AnnData(values, obs=pd.DataFrame(index=ids), var=pd.DataFrame(index=genes))

    mudata.set_options(pull_on_update=False)
    whole = mudata.MuData(
        {"rna": modality(["p1", "p2"], ["TP53", "MYC"]), "protein": modality(["p2", "p3"], ["HER2"])}
    )
    cohort = Cohort(whole)
    assert repr(cohort) == "Cohort(3 patients, rna 2x2, protein 2x1)"
    assert cohort.table("protein").loc["p3", "HER2"] == 1.0
