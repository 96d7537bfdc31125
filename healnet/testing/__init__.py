"""The laws of the library as checks: run them on an encoder, a fusion layer or a model of your own, one line each.

    from healnet.testing import check_encoder, check_fusion_layer, check_model
    check_encoder(MyEncoder(), inputs)
    check_fusion_layer(MyLayer(latent_dim=16, token_dims={"rna": 8, "slide": 12}), 16, {"rna": 8, "slide": 12})

Each check works on a float64 copy of the module in evaluation mode, so yours is left as it was. Whatever goes wrong inside
is raised as `LawBrokenError`, whose message names the modality or module, the law, what was found and the likely cause.
"""

from healnet.testing.encoder import check_encoder
from healnet.testing.fusion_layer import check_fusion_layer
from healnet.testing.law import LawBrokenError
from healnet.testing.model import check_model

__all__ = ["LawBrokenError", "check_encoder", "check_fusion_layer", "check_model"]
