import numpy as np
from sksurv.datasets import load_breast_cancer as original

from healnet.datasets import load_breast_cancer


def test_the_published_numbers():
    cohort = load_breast_cancer()
    assert repr(cohort) == "Cohort(198 patients, 51 events, clinical 198x4, genes 198x76)"
    assert cohort.patients[[0, -1]].tolist() == ["patient-001", "patient-198"]
    table, outcome = original()
    np.testing.assert_array_equal(cohort.target.time, outcome["t.tdm"])
    np.testing.assert_array_equal(cohort.target.event, outcome["e.tdm"])
    np.testing.assert_array_equal(cohort.table("genes"), table.filter(like="_at"))
    np.testing.assert_array_equal(cohort.table("clinical")[["age", "size"]], table[["age", "size"]])


def test_clinical_is_coded_as_documented():
    clinical, (table, _) = load_breast_cancer().table("clinical"), original()
    for column, codes in (
        ("er", {"negative": 0, "positive": 1}),
        ("grade", {"well differentiated": 1, "intermediate": 2, "poorly differentiated": 3}),
    ):
        for word, code in codes.items():
            assert (clinical[column] == code).tolist() == (table[column] == word).tolist()
    assert clinical.isna().sum().to_dict() == {"age": 0, "er": 0, "grade": 2, "size": 0}
