"""Save models to folders that predict on their own, load them, share them on the Hugging Face Hub.

Needs the extra `hub`: pip install "healnet[hub]".
"""

from healnet.pretrained.model import PretrainedModel

__all__ = ["PretrainedModel"]
