"""Match the data of new patients with the modalities, features and scaling of a trained model: `match_patients`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from healnet._warnings import warn
from healnet.data import Cohort, Standardizer
from healnet.data.modalities.table import Features
from healnet.pretrained.align import align, some, split_frame
from healnet.pretrained.plausible import warn_of_features, warn_of_units

__all__ = ["match_patients", "own_ids"]

_EVERYONE = "everyone in the tables"


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
        ValueError: Data of another kind; no modality or feature of the model; no value of any; a table of a modality whose
            features the model does not name.

    Warns:
        UserWarning: Features that are absent; patients with none of the model's features; values that look as if they
            were in other units than those of training.
    """
    whole = None
    if isinstance(data, Cohort):
        whole = data.select(_known(data.modalities, modalities))
        # Those who had nothing before are in the cohort because the user wants them there.
        _warn_of_empty(whole, ~data.missing().all(axis=1).to_numpy())
        tables = {name: whole.table(name) for name in whole.tables if not _fits(whole, name, features)}
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
    if whole is not None:
        cohort = whole.replace(tables) if tables else whole
    else:
        # A cohort refuses patients with nothing; here they are some rows of a table whose others are to be predicted.
        everyone = {str(one): 1.0 for table in tables.values() for one in table.index}
        present = pd.DataFrame({"present": everyone})
        kept = {name: table for name, table in tables.items() if table.notna().to_numpy().any()}
        if not kept:
            raise ValueError(f"expected a value of the model's features, got none of {len(present)} patients")
        cohort = Cohort({**kept, _EVERYONE: present}).select(list(kept))
        _warn_of_empty(cohort, np.ones(len(cohort), dtype=bool))
    if scaler is None:
        return cohort
    scaled = scaler.transform(cohort)
    warned = warn_of_units(scaled)
    warn_of_features(cohort, [name for name in cohort.tables if name not in warned], scaler)
    return scaled


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


def _fits(cohort: Cohort, name: str, features: Mapping[str, Sequence[str]]) -> bool:
    """Whether a table has the model's columns already: a sparse one then stays sparse."""
    modality = cohort.modality(name)
    return (
        name in features and isinstance(modality, Features) and list(modality.columns) == list(features[name])
    )


def _warn_of_empty(cohort: Cohort, asked: NDArray[np.bool_]) -> None:
    empty = cohort.patients[cohort.missing().all(axis=1).to_numpy() & asked]
    if len(empty):
        warn(
            f"patient {some(list(empty))}: none of the model's features is known: the prediction is the same for all such "
            "patients"
        )


def _known(names: Sequence[str], modalities: Sequence[str]) -> list[str]:
    """The model's modalities that are among the names, in the model's order."""
    known = [name for name in modalities if name in names]
    if not known:
        raise ValueError(f"expected some of the modalities {list(modalities)}, got {list(names)}")
    return known
