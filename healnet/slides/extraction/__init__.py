"""Extraction of features from slides: first looks, workers, locks, errors and pictures of a run."""
