"""Folders of saved models, checked before they are used, and matching of new patients' tables with a model's features.

`healnet.training.TrainedModel` saves, loads and predicts by them.
"""

__all__: list[str] = []
