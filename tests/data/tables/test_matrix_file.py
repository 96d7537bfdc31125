"""On files in the public layouts of UCSC Xena, cBioPortal and GDC; the numbers in them are made up."""

import logging
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from healnet.data import read_matrix

TABLES = Path(__file__).parents[2] / "reference" / "tables"
nan = np.nan


def test_xena_has_genes_in_rows_and_is_gzipped():
    table = read_matrix(TABLES / "xena_HiSeqV2.gz", genes_in_rows=True)
    assert table.columns.tolist() == ["ARHGEF10L", "TP53", "MYC"]
    assert table.index.tolist()[:2] == ["TCGA-OR-A5J1-01", "TCGA-OR-A5J2-01"]
    np.testing.assert_array_equal(table.loc["TCGA-OR-A5J3-06"], [9.1111, 9.505, nan])
    assert (table.dtypes == np.float64).all()


def test_gdc_has_ensembl_ids_and_names_its_gaps():
    table = read_matrix(TABLES / "gdc_star_tpm.tsv", genes_in_rows=True)
    assert table.columns.tolist() == ["ENSG00000141510.18", "ENSG00000136997.21"]
    np.testing.assert_array_equal(table.loc["TCGA-OR-A5J2-01A"], [4.02, nan])
    pancan = read_matrix(TABLES / "gdc_pancan_geneExp.tsv", genes_in_rows=True)
    assert pancan["TP53|7157"].tolist() == [650.1, 660.2, 812.3]


@pytest.mark.parametrize(("duplicates", "expected"), [("first", [10, 20]), ("mean", [20, 20])])
def test_cbioportal_has_other_ids_repeated_symbols_and_genes_without_one(duplicates, expected, caplog):
    path = TABLES / "cbioportal_data_mrna_seq_v2_rsem.txt"
    with caplog.at_level(logging.INFO):
        table = read_matrix(path, genes_in_rows=True, duplicates=duplicates)
    assert f"{path}: 1 features without a name are left out" in caplog.text
    assert table.to_dict("list") == {"TP53": [650.5, 812.25], "ELMOD1": expected}
    by_entrez = read_matrix(path, genes_in_rows=True, names="Entrez_Gene_Id", leave_out=["Hugo_Symbol"])
    assert by_entrez.columns.tolist() == ["100130426", "7157", "55531", "23787"]


def test_samples_in_rows_and_the_transpose_are_the_same(tmp_path):
    table = read_matrix(TABLES / "xena_HiSeqV2.gz", genes_in_rows=True)
    table.to_csv(tmp_path / "rows.csv")
    table.T.to_csv(tmp_path / "columns.tsv", sep="\t")
    for path, genes_in_rows in (("rows.csv", False), ("columns.tsv", True)):
        again = read_matrix(tmp_path / path, genes_in_rows=genes_in_rows)
        pd.testing.assert_frame_equal(again, table)


def write(folder, text):
    path = folder / "m.tsv"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (
            "g\ta\tb\nX\t1\t2\nX\t3\t4\n",
            {},
            '{}: feature \'X\' occurs more than once; duplicates="first" keeps the first, "mean" averages',
        ),
        (
            "s\tX\tY\na\t1\t2\na\t3\t4\n",
            {"genes_in_rows": False},
            "{}: sample 'a' occurs more than once",
        ),
        ("s\tX\tY\na\t1\t2\n\t3\t4\n", {"genes_in_rows": False}, "{}: sample 2 of 2 has no id"),
        ("g\ta\ta\nX\t1\t2\n", {}, "{}: two columns are named 'a'"),
        ("g\ta\tb\nX\t1\thigh\n", {}, "{}: expected numbers in column 'b', got 'high' in line 2"),
        ("g\ta\nX\t1\n", {"names": "gene"}, "{}: no column 'gene'; it has 'g', 'a'"),
        ("g\tCytoband\nX\t17p\n", {}, "{}: expected columns of numbers beside 'g', got none"),
        (
            "g\ta\nX\t1\n",
            {"duplicates": "sum"},
            "expected duplicates to be 'raise', 'first' or 'mean', got 'sum'",
        ),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, text, options, message):
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=f"^{re.escape(message.format(path))}$"):
        read_matrix(path, **{"genes_in_rows": True, **options})


def test_gct_and_parquet_hold_the_same_as_text(tmp_path):
    gct = tmp_path / "a.gct"
    gct.write_text("#1.2\n2\t3\nNAME\tDescription\tP1\tP2\tP3\nTP53\tx\t1\t2\t\nMYC\ty\t3\t4\t5\n")
    expected = pd.DataFrame({"TP53": [1.0, 2.0, np.nan], "MYC": [3.0, 4.0, 5.0]}, index=["P1", "P2", "P3"])
    pd.testing.assert_frame_equal(read_matrix(gct, genes_in_rows=True), expected)
    expected.to_parquet(tmp_path / "samples.parquet")
    pd.testing.assert_frame_equal(read_matrix(tmp_path / "samples.parquet", genes_in_rows=False), expected)
    expected.T.rename_axis("gene").to_parquet(tmp_path / "genes.parquet")
    pd.testing.assert_frame_equal(read_matrix(tmp_path / "genes.parquet", genes_in_rows=True), expected)
    gct.write_text("#1.3\n2\t2\t1\t1\nid\tx\tP1\tP2\nmeta\tna\t1\t2\nTP53\tx\t1\t2\n")
    message = f"{gct}: a GCT file of version 1.3, with rows of metadata; save it as version 1.2"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_matrix(gct, genes_in_rows=True)
