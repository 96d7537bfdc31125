"""Predict new patients with a saved model from a shell.

    python -m healnet predict MODEL table.csv --output risks.csv
    python -m healnet predict MODEL rna=rna.csv clinical=clinical.csv --times 365,1825 --output risks.csv

MODEL is a folder that `PretrainedModel.save_pretrained` wrote, or "owner/name" on the Hugging Face Hub. A table has a
patient per row, their ids in the first column. One table may hold the features of all modalities, in columns such as
`rna:TP53`, or `TP53` where only one modality has it; or there is one table per modality, by name. Columns may come in any
order.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 when the predictions were written, 1 with a message when they could not be."""
    parser = argparse.ArgumentParser(
        "python -m healnet", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    predict = commands.add_parser(
        "predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    predict.add_argument("model", help="folder, or owner/name on the Hub")
    predict.add_argument("tables", nargs="+", metavar="table", help="table.csv, or modality=table.csv")
    predict.add_argument("--output", type=Path, required=True, help="CSV to write: a row per patient")
    predict.add_argument("--times", help="times of survival probabilities, as in 365,1825")
    options = parser.parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _say
            _predict(options)
    except (ValueError, OSError, ImportError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def _predict(options: argparse.Namespace) -> None:
    import pandas as pd

    from healnet._files import atomic_path
    from healnet.pretrained import PretrainedModel

    def read(path: str) -> pd.DataFrame:
        table = pd.read_csv(path, index_col=0, dtype={0: str})
        return table.set_axis(table.index.astype(str), axis=0)

    named = dict(t.split("=", 1) for t in options.tables if "=" in t and not Path(t).is_file())
    if len(options.tables) != (len(named) or 1):
        raise ValueError("expected one table, or each as modality=table.csv and each modality once")
    times = [float(time) for time in options.times.split(",")] if options.times else []
    model = PretrainedModel.from_pretrained(options.model)
    data = {name: read(path) for name, path in named.items()} if named else read(options.tables[0])
    found = model.predict(data)
    if times:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said by `predict`
            curves = model.survival(data, times)
        found = found.join(curves.rename(columns="survival_{:g}".format))
    with atomic_path(options.output) as temporary:
        found.to_csv(temporary, index_label="patient")


def _say(message: Warning | str, *_: object, **__: object) -> None:
    sys.stderr.write(f"warning: {message}\n")


if __name__ == "__main__":
    sys.exit(main())
