"""Cohorts that come with the package, or with scikit-survival: real patients for examples, tests and first steps."""

from healnet.datasets.breast_cancer import load_breast_cancer
from healnet.datasets.mini_acc import load_mini_acc

__all__ = ["load_breast_cancer", "load_mini_acc"]
