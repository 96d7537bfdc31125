"""From files and tables to batches: readers of slides, patch features and omic tables; cohorts; collation.

Each name is imported when it is first used, so that a reader's own needs (OpenSlide, h5py, pandas) are asked for only
by those who read such files. No model is known here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from healnet.data.batch import Batch, collate
    from healnet.data.cohort import Cohort
    from healnet.data.dataset import CohortDataset
    from healnet.data.dropout import ModalityDropout
    from healnet.data.extract import extract_features
    from healnet.data.omics import read_omics
    from healnet.data.patches import PatchFile, read_patches
    from healnet.data.samplers import LengthBuckets
    from healnet.data.slides import Slide
    from healnet.data.splits import Split, read_splits
    from healnet.data.standardize import Standardizer

__all__ = [
    "Batch",
    "Cohort",
    "CohortDataset",
    "LengthBuckets",
    "ModalityDropout",
    "PatchFile",
    "Slide",
    "Split",
    "Standardizer",
    "collate",
    "extract_features",
    "read_omics",
    "read_patches",
    "read_splits",
]

# No module may bear the name of an export: importing it would hide the function behind the module.
_HOME = {
    "Batch": "batch",
    "Cohort": "cohort",
    "CohortDataset": "dataset",
    "LengthBuckets": "samplers",
    "ModalityDropout": "dropout",
    "PatchFile": "patches",
    "Slide": "slides",
    "Split": "splits",
    "Standardizer": "standardize",
    "collate": "batch",
    "extract_features": "extract",
    "read_omics": "omics",
    "read_patches": "patches",
    "read_splits": "splits",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'healnet.data' has no attribute {name!r}")
    try:
        return getattr(import_module(f"healnet.data.{_HOME[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "healnet":
            raise
        raise ImportError(
            f"healnet.data.{name} needs the package {error.name!r}: pip install healnet"
        ) from error


def __dir__() -> list[str]:
    return sorted(__all__)
