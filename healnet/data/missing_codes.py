"""Find numbers that stand for "not known" in tables, such as -999: `warn_of_missing_codes`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from healnet._warnings import warn
from healnet.data.checks import shorten
from healnet.data.modalities.modality import Modality
from healnet.data.modalities.table import Table

__all__ = ["warn_of_missing_codes"]

# The codes of SPSS, SAS and registries. 9 and 99 are left out: they are common as findings.
_NEGATIVE = (-9.0, -99.0, -999.0, -9999.0, -99999.0)
_POSITIVE = (999.0, 9999.0, 99999.0)


def warn_of_missing_codes(modalities: Mapping[str, Modality]) -> None:
    """Warn of columns whose least or largest value is such a code and lies apart from all other values.

    A negative code lies apart if the others are all positive or zero, or less than half as large as it. A positive code
    must be there twice, since a single value may be what was measured.

    Args:
        modalities: Modalities by name, of which tables are looked at.

    Warns:
        UserWarning: Such columns, by modality and name.
    """
    for name, modality in modalities.items():
        if isinstance(modality, Table):
            found = _codes(modality.values)
            if found:
                code = next(iter(found.values()))
                warn(
                    f"modality {name!r}: column {shorten(modality.columns[list(found)])} has values such as {code:g}, far "
                    f"from its others: if they mean 'not known', make them NaN (table.replace({code:g}, float('nan'))), "
                    "or the model reads them as numbers"
                )


def _codes(values: NDArray[np.float64]) -> dict[int, float]:
    """The code in each column of (n, f) that has one, by its position."""
    found: dict[int, float] = {}
    for extremes, codes in ((np.fmin.reduce(values), _NEGATIVE), (np.fmax.reduce(values), _POSITIVE)):
        for at in np.flatnonzero(np.isin(extremes, codes)):
            code, column = float(extremes[at]), values[:, at]
            others = column[~np.isnan(column) & (column != code)]
            apart = bool((np.abs(others) < abs(code) / 2).all())
            often = int((column == code).sum()) > 1
            if len(others) and ((apart and (code < 0 or often)) or (code < 0 and (others >= 0).all())):
                found[int(at)] = code
    return found
