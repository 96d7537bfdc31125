"""Losses that are trained on raw model outputs, and what those outputs mean: hazards, survival, risk."""
