"""The systems HEALNet is compared with, on the same inputs and encoders.

Each is written from its paper, takes the same mapping of inputs as `HEALNet` and returns (b, out_dim). `EarlyFusion`,
`MultiModN`, `MeanFusion` and `LinearCox` pass over what a patient lacks. The others need every modality, or their bag: they
refuse a patient who lacks it, unless made with missing="zero", the zero-imputation that such designs are usually run with.
"""

from healnet.baselines.attention_mil import AttentionMIL, GatedAttentionPool
from healnet.baselines.early_fusion import EarlyFusion
from healnet.baselines.late_concat import LateConcat
from healnet.baselines.late_kronecker import LateKronecker
from healnet.baselines.linear_cox import LinearCox
from healnet.baselines.mcat import MCAT, CoAttention
from healnet.baselines.mean_fusion import MeanFusion
from healnet.baselines.motcat import MOTCat, TransportCoAttention
from healnet.baselines.multimodn import MultiModN
from healnet.baselines.self_normalizing import SelfNormalizingNetwork
from healnet.baselines.survpath import SurvPath

__all__ = [
    "MCAT",
    "AttentionMIL",
    "CoAttention",
    "EarlyFusion",
    "GatedAttentionPool",
    "LateConcat",
    "LateKronecker",
    "LinearCox",
    "MOTCat",
    "MeanFusion",
    "MultiModN",
    "SelfNormalizingNetwork",
    "SurvPath",
    "TransportCoAttention",
]
