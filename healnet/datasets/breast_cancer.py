"""The breast cancer cohort of scikit-survival: 198 patients, clinical findings and 76 genes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from healnet.survival.target import SurvivalTarget

if TYPE_CHECKING:
    from healnet.data.cohort import Cohort

__all__ = ["load_breast_cancer"]

_ER = {"negative": 0.0, "positive": 1.0}
# "unkown" is scikit-survival's spelling; it is a missing cell here.
_GRADE = {"well differentiated": 1.0, "intermediate": 2.0, "poorly differentiated": 3.0}


def load_breast_cancer() -> Cohort:
    """Node-negative breast cancer (Desmedt et al., Clin Cancer Res 2007), read from scikit-survival.

    198 patients, 51 events: distant metastasis, time in days.

    ========== ======== ======== ===================================================================================
    modality   patients features values
    ========== ======== ======== ===================================================================================
    `clinical`      198        4 `age` in years, `er` (estrogen receptor, 1 = positive), `grade` 1-3, `size` in cm
    `genes`         198       76 expression of the 76-gene signature's probes, log2
    ========== ======== ======== ===================================================================================

    The data carry no patient ids; rows are named `patient-001` to `patient-198` in their order.

    Example:
        >>> load_breast_cancer()
        Cohort(198 patients, 51 events, clinical 198x4, genes 198x76)
    """
    from sksurv.datasets import load_breast_cancer as load

    from healnet.data import Cohort

    table, outcome = load()
    table.index = [f"patient-{number:03d}" for number in range(1, len(table) + 1)]
    clinical = table[["age", "er", "grade", "size"]].copy()
    clinical["er"] = clinical["er"].astype(object).map(_ER).astype(float)
    clinical["grade"] = clinical["grade"].astype(object).map(_GRADE).astype(float)
    genes = table.drop(columns=clinical.columns)
    return Cohort(
        {"clinical": clinical, "genes": genes},
        SurvivalTarget(outcome["t.tdm"], outcome["e.tdm"]),
        table.index,
    )
