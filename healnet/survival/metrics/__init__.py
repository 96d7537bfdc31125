"""Metrics of predictions, and tests of which model is better."""
