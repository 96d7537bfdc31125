"""What a cohort holds of each modality: tables, sparse tables, values of one patient each, bags of patches on disk."""
