"""Input types of a model, and the operations that every subpackage needs on them.

A modality of one batch is a plain tensor, or a NamedTuple of tensors whose masks say what is real, so that PyTorch's default
collation, pinning and scattering over devices work. Besides the four types here, any NamedTuple of tensors with a bool field
`mask` is an input, and the functions below work on it.

Everywhere a mask is boolean and **True means real**: padding and absence are the same thing.
"""

from healnet.inputs.graph import Graph
from healnet.inputs.map_tensors import map_tensors
from healnet.inputs.masked import Hidden, Masked
from healnet.inputs.operations import (
    batch_size,
    broadcast_mask,
    element_mask,
    hide,
    move,
    present,
    real_elements,
    repeat,
    take,
    unmask,
    values_field,
    values_of,
    with_mask,
    with_values,
)
from healnet.inputs.patch_bag import PatchBag
from healnet.inputs.time_series import TimeSeries

__all__ = [
    "Graph",
    "Hidden",
    "Masked",
    "PatchBag",
    "TimeSeries",
    "batch_size",
    "broadcast_mask",
    "element_mask",
    "hide",
    "map_tensors",
    "move",
    "present",
    "real_elements",
    "repeat",
    "take",
    "unmask",
    "values_field",
    "values_of",
    "with_mask",
    "with_values",
]
