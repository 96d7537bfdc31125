"""Modalities as a cohort holds them: tables, sparse tables, values of one patient each, bags of patches on disk."""
