"""Read the model's features from a table on disk, patients in rows: `read_features`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from healnet._files import shown
from healnet.data.tables.text_table import open_text_table
from healnet.pretrained.align import some

__all__ = ["read_features"]

_MAX_BYTES = 1 << 36  # the user's own file, on their own machine


def read_features(path: Path, features: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Columns of a CSV or TSV file that are features of the model; others may hold anything.

    Args:
        path: File as `healnet.data.read_matrix` reads them; the first column has the ids of the patients, which stay text.
        features: Features of each modality, as columns `TP53` or `rna:TP53`.

    Raises:
        FileNotFoundError: No such file.
        ValueError: No feature among the columns, a feature where ids should be, a patient without an id, a cell that is no
            number, a file that cannot be read whole. The message names the file.
    """
    table = open_text_table(path, _MAX_BYTES, delimiter=None, comment="#")
    known = {column for name, own in features.items() for one in own for column in (one, f"{name}:{one}")}
    ids = table.header[0]
    columns = [column for column in table.header[1:] if column in known]
    if not columns:
        text, _ = table.read([ids], [])
        rows = sum(cell in known for cell in text[ids])
        cause = f"; {rows} of its rows are: pass a table with patients in rows" if rows else ""
        wanted = [feature for own in features.values() for feature in own]
        raise ValueError(
            f"{shown(path)}: expected some of the model's features ({some(wanted)}), "
            f"got the columns {some(table.header)}{cause}"
        )
    if ids in known:
        raise ValueError(
            f"{shown(path)}: expected ids of patients in the first column, got the feature {ids!r}"
        )
    text, values = table.read([ids], columns)
    names = text[ids]
    if None in names:
        raise ValueError(
            f"{shown(path)}: row {names.index(None) + 1} has no id of a patient in the first column"
        )
    return pd.DataFrame(values, index=pd.Index(names, dtype=object), columns=columns)
