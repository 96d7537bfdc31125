"""Predict new patients with a saved model from a shell.

    python -m healnet predict MODEL table.csv --output risks.csv
    python -m healnet predict MODEL rna=rna.csv clinical=clinical.csv --times 365,1825 --output risks.csv

MODEL is a folder that `healnet.training.TrainedModel.save` wrote, or "owner/name" on the Hugging Face Hub. A table (CSV or
TSV, also in gzip or zip) has a patient per row, their ids in the first column. One table may hold the features of all
modalities, in columns such as `rna:TP53`, or `TP53` where only one modality has it; or there is one table per modality, by
name. Columns may come in any order, beside others.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
            said: set[str] = set()

            def say(message: Warning | str, *_: object, **__: object) -> None:
                if str(message) not in said:  # curves warn again of what risks warned of
                    sys.stderr.write(f"warning: {message}\n")
                said.add(str(message))

            warnings.simplefilter("always")
            warnings.showwarning = say
            _predict(options)
    except (ValueError, OSError, ImportError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def _predict(options: argparse.Namespace) -> None:
    from healnet._files import atomic_path, shown
    from healnet.pretrained.table_file import read_features
    from healnet.training import TrainedModel

    named = dict(t.split("=", 1) for t in options.tables if "=" in t and not Path(t).is_file())
    if len(options.tables) != (len(named) or 1):
        raise ValueError("expected one table, or each as modality=table.csv and each modality once")
    if options.output.is_dir() or not options.output.absolute().parent.is_dir():
        raise ValueError(
            f"expected --output as a file in a folder that is there, got {shown(options.output)}"
        )
    try:
        times = [float(time) for time in options.times.split(",")] if options.times else []
    except ValueError as error:
        raise ValueError(f"expected --times as numbers, as in 365,1825, got {options.times!r}") from error
    model = TrainedModel.load(options.model)
    unknown = [name for name in named if name not in model.features]
    if unknown:
        raise ValueError(f"unknown modality {unknown[0]!r}: the model's tables are {list(model.features)}")
    if named:
        data: Any = {n: read_features(Path(path), {n: model.features[n]}) for n, path in named.items()}
    else:
        data = read_features(Path(options.tables[0]), model.features)
    found = model.predict_proba(data) if model.output == "classes" else model.predict(data).to_frame()
    if times:
        found = found.join(model.survival(data, times).rename(columns="survival_{:.15g}".format))
    with atomic_path(options.output) as temporary:
        found.to_csv(temporary, index_label="patient")


if __name__ == "__main__":
    sys.exit(main())
