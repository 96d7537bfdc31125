"""Raw modality in, `Tokens` out: an encoder for every kind of raw modality, and a door for new ones."""

from healnet.encoders.base import ModalityEncoder
from healnet.encoders.grid import GridEncoder
from healnet.encoders.omic import OmicEncoder
from healnet.encoders.patches import PatchEncoder
from healnet.tokens import PatchBag

__all__ = ["GridEncoder", "ModalityEncoder", "OmicEncoder", "PatchBag", "PatchEncoder"]
