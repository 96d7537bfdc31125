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
    # A row that is all NaN is an absence in a table, and would have to be left out of a sparse one.
    values[np.isnan(values).all(axis=1)] = 0.0
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


def test_standardized_or_joined_it_is_filled_in():
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
    counts = sparse.random_array((n, genes), density=0.001, format="csr", rng=0)
    cohort = Cohort({"rna": Annotated(counts, [f"p{i}" for i in range(n)], [f"g{i}" for i in range(genes)])})
    rows = cohort.modality("rna").rows
    assert rows.data.nbytes + rows.indices.nbytes + rows.indptr.nbytes < 300_000  # filled in: 80 MB
    assert CohortDataset(cohort).batch([3, 4]).inputs["rna"].values.shape == (2, genes)


def test_infinite_values_and_repeated_genes_are_refused():
    ids = ["p0", "p1"]
    with pytest.raises(ValueError, match=r"^modality 'rna': infinite value; missing values are NaN$"):
        Cohort({"rna": Annotated(sparse.csr_matrix([[0, np.inf], [0, 0]]), ids, ["a", "b"])})
    with pytest.raises(ValueError, match=r"^modality 'rna': duplicated column 'a'$"):
        Cohort({"rna": Annotated(sparse.csr_matrix([[0, 1.0], [0, 0]]), ids, ["a", "a"])})
