"""Fusion: the model, its layers, which update the shared latents by every modality's tokens, and its attention."""

from healnet.fusion.hybrid import HybridFusionLayer
from healnet.fusion.layer import FusionLayer
from healnet.fusion.model import HEALNet, MeanHead
from healnet.fusion.output import Output, check_output
from healnet.fusion.trace import AttentionTrace, TraceRecorder

__all__ = [
    "AttentionTrace",
    "FusionLayer",
    "HEALNet",
    "HybridFusionLayer",
    "MeanHead",
    "Output",
    "TraceRecorder",
    "check_output",
]
