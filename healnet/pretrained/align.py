"""Match the columns of new tables with the features that a model was trained on: `align`, `split_frame`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from healnet._warnings import warn

__all__ = ["align", "some", "split_frame"]


def align(name: str, table: pd.DataFrame, features: Sequence[str]) -> pd.DataFrame:
    """The table with exactly these columns, in this order: others are left out, those it lacks are missing values.

    Args:
        name: Modality, for messages.
        table: Columns in any order.
        features: Names of the columns that the model was trained on.

    Raises:
        ValueError: A column twice, or none of the features among the columns.

    Warns:
        UserWarning: Some features are not among the columns.
    """
    columns = pd.Index([str(column) for column in table.columns], dtype=object)
    if columns.has_duplicates:
        twice = columns[columns.duplicated()][0]
        raise ValueError(f"modality {name!r}: expected each column once, got {twice!r} more than once")
    present, wanted = set(columns), list(features)
    absent = [feature for feature in wanted if feature not in present]
    if len(absent) == len(wanted):
        raise ValueError(
            f"modality {name!r}: expected some of the model's features ({some(wanted)}), "
            f"got the columns {some(list(columns))}"
        )
    if len(absent):
        warn(
            f"modality {name!r}: {len(absent)} of {len(wanted)} features are not in the table and count as missing: "
            f"{some(absent)}"
        )
    return table.set_axis(columns, axis=1).reindex(columns=wanted)


def split_frame(frame: pd.DataFrame, features: Mapping[str, Sequence[str]]) -> dict[str, pd.DataFrame]:
    """One table per modality, from one table of all.

    A column `rna:TP53` is the feature TP53 of the modality rna, as `Cohort.to_frame` names it. A bare `TP53` is that of the
    only modality that has such a feature. Other columns are left out, and so are modalities without any column, with a
    warning.

    Args:
        frame: (patients, columns), indexed by patient id.
        features: Features of each modality.

    Raises:
        ValueError: A bare name that several modalities have; one feature under both names; no feature at all.

    Warns:
        UserWarning: A modality none of whose features is among the columns.
    """
    owners: dict[str, list[str]] = {}
    for name, own in features.items():
        for feature in own:
            owners.setdefault(feature, []).append(name)
    chosen: dict[str, dict[str, str]] = {name: {} for name in features}
    for column in map(str, frame.columns):
        name, colon, feature = column.partition(":")
        if not (colon and name in features and feature in set(features[name])):
            feature, names = column, owners.get(column, [])
            if not names:
                continue
            if len(names) > 1:
                raise ValueError(
                    f"column {column!r} is a feature of several modalities, {some(names)}: "
                    f"name it {names[0] + ':' + column!r} and so on"
                )
            name = names[0]
        if feature in chosen[name]:
            raise ValueError(f"modality {name!r}: expected feature {feature!r} once, got it in two columns")
        chosen[name][feature] = column
    if not any(chosen.values()):
        raise ValueError(
            f"expected some of the model's features ({some(list(owners))}), got the columns {some(list(frame.columns))}"
        )
    unseen = [name for name, columns in chosen.items() if features[name] and not columns]
    if unseen:
        lower = {str(column).lower() for column in frame.columns}
        first = [feature for name in unseen for feature in features[name]]
        case = any(
            {own.lower(), f"{name}:{own}".lower()} & lower for name in unseen for own in features[name]
        )
        warn(
            f"none of the features of {some(unseen)} ({some(first)}) is among the columns: missing for every patient"
            + ("; some differ in upper and lower case only" if case else "")
        )
    named = frame.set_axis([str(column) for column in frame.columns], axis=1)
    return {
        name: named[list(columns.values())].set_axis(list(columns), axis=1)
        for name, columns in chosen.items()
        if columns
    }


def some(names: Sequence[object]) -> str:
    """The first three names, for a message: "'a', 'b', 'c' and 4 more"; "none" of none."""
    if not len(names):
        return "none"
    shown = ", ".join(repr(str(name)) for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
