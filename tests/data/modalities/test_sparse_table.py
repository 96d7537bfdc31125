import tracemalloc

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from healnet.data import Cohort, CohortDataset, Standardizer, join_cohorts
from healnet.data.modalities.sparse_table import SparseTable
from healnet.data.modalities.table import Table

PATIENTS = pd.Index(["p0", "p1", "p2", "p3"], dtype=object)


class Annotated:
    """The three attributes that AnnData has."""

    def __init__(self, values, ids, names):
        self.X, self.obs_names, self.var_names = values, pd.Index(ids), pd.Index(names)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 0.0, 0.0, 1.5, -2.0, np.nan]), min_size=12, max_size=12),
    st.permutations(range(4)),
    st.integers(1, 4),
    st.lists(st.integers(0, 3), unique=True),
)
def test_it_is_the_table_that_it_stands_for(cells, order, rows, positions):
    values = np.array(cells).reshape(4, 3)[:rows]
    ids, names = PATIENTS[list(order)][:rows], pd.Index(["a", "b", "c"], dtype=object)
    table = Table.of(pd.DataFrame(values, index=ids, columns=names), PATIENTS)
    thin = SparseTable.of(sparse.csr_array(values), ids, names, PATIENTS)
    for one, other in (
        (table, thin),
        (table.take(np.array(positions, int)), thin.take(np.array(positions, int))),
    ):
        pd.testing.assert_frame_equal(one.frame, other.frame)
        assert one.missing().tolist() == other.missing().tolist()
        assert one.missing_cells() == other.missing_cells()
        assert str(one) == str(other)
        for position in range(len(one.frame)):
            ours, theirs = (part.reader(torch.float32, None)(position, None) for part in (other, one))
            assert torch.equal(ours.values, theirs.values)
            assert torch.equal(ours.mask, theirs.mask)


@pytest.mark.parametrize("method", ["mean", "median", "rank"])
@pytest.mark.parametrize("clip", [None, 1.5])
def test_standardized_it_is_the_table_that_it_stands_for(method, clip):
    rng = np.random.default_rng(3)
    ids, names = [f"p{i}" for i in range(20)], [f"g{i}" for i in range(7)]
    values = np.where(rng.random((20, 7)) < 0.3, 1000 + rng.normal(size=(20, 7)), 0.0)
    values[rng.random((20, 7)) < 0.1] = np.nan
    values[:, 4], values[:, 5] = 0.0, np.nan  # constant, and never known
    values[:, 6] = -3.0
    everyone = pd.DataFrame({"age": rng.normal(size=21)}, index=[*ids, "lacks rna"])
    thin = Cohort({"rna": Annotated(sparse.csr_array(values), ids, names), "clinical": everyone})
    full = Cohort({"rna": pd.DataFrame(values, ids, names), "clinical": everyone})
    train = thin.locate([*ids[3:15], "lacks rna"])
    one, other = Standardizer(method, clip).fit(thin[train]), Standardizer(method, clip).fit(full[train])
    pd.testing.assert_frame_equal(
        one.statistics["rna"], other.statistics["rna"], rtol=1e-12, check_dtype=False
    )
    # Columns in another order are found by name.
    shuffled = [names[i] for i in rng.permutation(7)]
    thin = Cohort(
        {"rna": Annotated(sparse.csr_array(values[:, [names.index(n) for n in shuffled]]), ids, shuffled)}
    )
    thin = thin.with_modality("clinical", everyone.iloc[:20])
    scaled, expected = one.transform(thin), other.transform(full[:20])
    assert isinstance(scaled.modality("rna"), SparseTable) == (method == "mean")
    pd.testing.assert_frame_equal(scaled.table("rna"), expected.table("rna"), rtol=1e-9)
    ours, theirs = (CohortDataset(c[[5, 2]]).batch().inputs["rna"] for c in (scaled, expected))
    torch.testing.assert_close(ours.values, theirs.values)
    assert torch.equal(ours.mask, theirs.mask)
    # What was standardized once is filled in for the second time.
    twice = Standardizer().fit(scaled).transform(scaled)
    again = Standardizer().fit(expected).transform(expected)
    pd.testing.assert_frame_equal(twice.table("rna"), again.table("rna"), rtol=1e-9, atol=1e-9)


def test_joined_it_is_filled_in():
    counts = sparse.csr_matrix([[0.0, 4.0], [2.0, 0.0]])
    thin = Cohort({"rna": Annotated(counts, ["p0", "p1"], ["TP53", "MYC"])})
    scaled = Standardizer().fit(thin).transform(thin)
    assert scaled.table("rna").to_numpy().tolist() == [[-1, 1], [1, -1]]
    dense = Cohort({"rna": pd.DataFrame({"MYC": [7.0]}, index=["p2"])})
    both = join_cohorts({"a": thin, "b": dense})
    np.testing.assert_array_equal(both.table("rna"), [[0, 4], [2, 0], [np.nan, 7]])
    assert CohortDataset(both).batch().inputs["rna"].mask[2].tolist() == [False, True]


def test_memory_is_that_of_the_cells_that_are_not_zero():
    n, genes = 500, 20_000
    where = np.random.default_rng(0).integers([[n], [genes]], size=(2, 10_000))
    counts = sparse.csr_array((np.ones(10_000), where), shape=(n, genes))
    cohort = Cohort({"rna": Annotated(counts, [f"p{i}" for i in range(n)], [f"g{i}" for i in range(genes)])})
    rows = cohort.modality("rna").rows
    assert rows.data.nbytes + rows.indices.nbytes + rows.indptr.nbytes < 300_000  # filled in: 80 MB
    assert CohortDataset(cohort).batch([3, 4]).inputs["rna"].values.shape == (2, genes)
    tracemalloc.start()
    try:
        scaled = Standardizer().fit(cohort[:400]).transform(cohort)
        assert CohortDataset(scaled).batch([3, 4]).inputs["rna"].values.shape == (2, genes)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20_000_000  # and filled in: 80 MB


def test_infinite_values_and_repeated_genes_are_refused():
    ids = ["p0", "p1"]
    with pytest.raises(ValueError, match=r"^modality 'rna': infinite value; missing values are NaN$"):
        Cohort({"rna": Annotated(sparse.csr_matrix([[0, np.inf], [0, 0]]), ids, ["a", "b"])})
    with pytest.raises(ValueError, match=r"^modality 'rna': duplicated column 'a'$"):
        Cohort({"rna": Annotated(sparse.csr_matrix([[0, 1.0], [0, 0]]), ids, ["a", "a"])})
