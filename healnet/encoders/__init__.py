"""Encoders: from a raw modality to `Tokens`; one per kind of data, and a base class for your own."""

from healnet.encoders.base import ModalityEncoder
from healnet.encoders.encode import encode, encoder_dict
from healnet.encoders.gene_sets import GeneSetEncoder, read_gmt, read_signatures
from healnet.encoders.graph import GraphEncoder
from healnet.encoders.grid import GridEncoder
from healnet.encoders.learned import LearnedEncoder
from healnet.encoders.omic import OmicEncoder
from healnet.encoders.patches import PatchEncoder
from healnet.encoders.sequence import SequenceEncoder
from healnet.inputs import element_mask, unmask

__all__ = [
    "GeneSetEncoder",
    "GraphEncoder",
    "GridEncoder",
    "LearnedEncoder",
    "ModalityEncoder",
    "OmicEncoder",
    "PatchEncoder",
    "SequenceEncoder",
    "element_mask",
    "encode",
    "encoder_dict",
    "read_gmt",
    "read_signatures",
    "unmask",
]
