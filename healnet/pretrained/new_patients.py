"""Match the data of new patients with the modalities, features and scaling of a trained model: `match_patients`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from healnet.data import Cohort, Standardizer
from healnet.pretrained.align import align, some, split_frame
from healnet.pretrained.plausible import warn_of_units

__all__ = ["match_patients", "own_ids"]


def match_patients(
    data: Cohort | pd.DataFrame | Mapping[str, pd.DataFrame],
    modalities: Sequence[str],
    features: Mapping[str, Sequence[str]],
    scaler: Standardizer | None,
) -> Cohort:
    """The patients with the model's modalities and features alone, scaled.

    Args:
        data: Tables as they were read, not scaled: one of all modalities, one per modality, or a cohort.
        modalities: Modalities of the model.
        features: Names of the columns of each table that the model was trained on, in order.
        scaler: Standardizer fitted on the training patients; None leaves tables as they are.

    Raises:
        ValueError: Data of another kind; no modality or feature of the model; a patient without any modality of the model; a
            table of a modality whose features the model does not name.

    Warns:
        UserWarning: Features that are absent; values that look as if they were in other units than those of training.
    """
    whole = None
    if isinstance(data, Cohort):
        whole = data.select(_known(data.modalities, modalities))
        nothing = whole.patients[whole.missing().all(axis=1).to_numpy()]
        if len(nothing):
            raise ValueError(
                f"patient {some(list(nothing))} has none of the model's modalities; leave such patients out"
            )
        tables = {name: whole.table(name) for name in whole.tables if name in features}
    else:
        if not isinstance(data, pd.DataFrame | Mapping):
            raise ValueError(
                f"expected a Cohort, a DataFrame or one per modality by name, got {type(data).__name__}"
            )
        tables = dict(data) if isinstance(data, Mapping) else split_frame(data, features)
        tables = {name: tables[name] for name in _known(list(tables), modalities)}
    for name, table in tables.items():
        if name not in features:
            raise ValueError(
                f"modality {name!r}: expected a model with names of its features, got one without; pass `features=` "
                "when it is wrapped"
            )
        tables[name] = align(name, table, features[name])
    cohort = Cohort(tables) if whole is None else whole.replace(tables)
    if scaler is None:
        return cohort
    cohort = scaler.transform(cohort)
    warn_of_units(cohort)
    return cohort


def own_ids(data: Cohort | pd.DataFrame | Mapping[str, pd.DataFrame], patients: pd.Index) -> pd.Index:
    """The patients' ids as the data have them: numbers stay numbers, so that what is predicted can be joined to a table.

    Args:
        data: As for `match_patients`.
        patients: (n,) ids of the cohort that it made of them, as text.
    """
    if isinstance(data, Cohort):
        return patients
    tables = [data] if isinstance(data, pd.DataFrame) else data.values()
    own = {str(one): one for table in tables for one in table.index}
    return pd.Index([own[one] for one in patients], name=patients.name)


def _known(names: Sequence[str], modalities: Sequence[str]) -> list[str]:
    """The model's modalities that are among the names, in the model's order."""
    known = [name for name in modalities if name in names]
    if not known:
        raise ValueError(f"expected some of the modalities {list(modalities)}, got {list(names)}")
    return known
