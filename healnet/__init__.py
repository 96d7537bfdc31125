"""HEALNet: hybrid early-fusion attention learning over tables, slides, volumes, sequences and graphs.

An independent implementation of Hemker, Simidjievski and Jamnik, NeurIPS 2024 (arXiv 2311.09115).

Conventions, stated once:

- Shapes by letter: `b` patients, `m` latents, `d` latent width, `h` heads, `n` tokens, `c` token width, `k` time bins.
- `mask` is bool and **True = real**. Padding and absence are the same thing: an absent modality is a row of all False.
- `event` is bool and **True = the event was observed** (scikit-survival's sign). `censorship` (1 = *not* observed) is
  converted at the reader's edge, by name, and nowhere else. `time` is float, in any unit, larger = later, never negative.
- `log_hazard` (Cox) and `logits` (discrete time) are raw model outputs: no function takes probabilities by mistake.
- Risk: larger = worse. Time bins are 0-based, fitted on training patients only, and carry their edges.
- Slide coordinates: (x, y) of the top-left corner in level-0 pixels, with the level-0 footprint of a patch beside them.

>>> import torch
>>> from healnet.encoders import OmicEncoder
>>> model = HEALNet({"rna": OmicEncoder(50), "protein": OmicEncoder(20)}, out_dim=4)
>>> model({"rna": torch.randn(3, 50)}).shape  # no patient in this batch has protein
torch.Size([3, 4])
"""

from typing import TYPE_CHECKING, Any

from healnet.fusion import HEALNet
from healnet.inputs import Graph, Masked, PatchBag, TimeSeries
from healnet.streams import Pieces, Stream
from healnet.tokens import Tokens

if TYPE_CHECKING:
    from healnet.estimator import HEALNetSurvivalAnalysis

__all__ = [
    "Graph",
    "HEALNet",
    "HEALNetSurvivalAnalysis",
    "Masked",
    "PatchBag",
    "Pieces",
    "Stream",
    "TimeSeries",
    "Tokens",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "HEALNetSurvivalAnalysis":  # imports scikit-learn and pandas, which models alone do not need
        from healnet.estimator import HEALNetSurvivalAnalysis

        return HEALNetSurvivalAnalysis
    raise AttributeError(f"module 'healnet' has no attribute {name!r}")
