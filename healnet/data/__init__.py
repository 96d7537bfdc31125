"""Many patients: tables and folders in, a `Cohort`, and batches out. No model is known here."""

from healnet.data.batch import Batch
from healnet.data.cohort import Cohort
from healnet.data.collate_fn import collate
from healnet.data.dataset import CohortDataset
from healnet.data.join_cohorts import join_cohorts, join_splits
from healnet.data.length_buckets import LengthBuckets
from healnet.data.modality_dropout import ModalityDropout
from healnet.data.splits import Split, read_splits
from healnet.data.standardizer import Standardizer
from healnet.data.tables.clinical_encoding import encode_clinical
from healnet.data.tables.matrix_file import read_matrix
from healnet.data.tables.omics_table import read_omics
from healnet.data.tables.tcga_barcodes import tcga_patients, tcga_slides

__all__ = [
    "Batch",
    "Cohort",
    "CohortDataset",
    "LengthBuckets",
    "ModalityDropout",
    "Split",
    "Standardizer",
    "collate",
    "encode_clinical",
    "join_cohorts",
    "join_splits",
    "read_matrix",
    "read_omics",
    "read_splits",
    "tcga_patients",
    "tcga_slides",
]
