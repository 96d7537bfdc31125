"""Base class for fusion layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn

from healnet.fusion.trace import TraceRecorder
from healnet.tokens import Tokens

__all__ = ["FusionLayer"]


class FusionLayer(nn.Module, ABC):
    """Base class of fusion layers, which update the latents by the tokens of all modalities. Subclass it to fuse otherwise.

    A layer keeps the laws that `healnet.testing.check_fusion_layer` checks: patients do not mix; an absent modality (left
    out of `tokens`, or a row that is all masked) leaves a patient's latents as that patient alone would have them; padding
    changes nothing; masked tokens get no gradient; recording a trace changes no number.

    Example:
        >>> class MeanFusion(FusionLayer):
        ...     "Adds the mean of each modality's real tokens to every latent."
        ...
        ...     def __init__(self, latent_dim, token_dims):
        ...         super().__init__()
        ...         self.to_latent = nn.ModuleDict({k: nn.Linear(c, latent_dim, bias=False) for k, c in token_dims.items()})
        ...
        ...     def forward(self, latents, tokens, recorder=None):
        ...         for name, x in tokens.items():
        ...             real = x.values.new_ones(x.values.shape[:2]) if x.mask is None else x.mask.to(latents.dtype)
        ...             mean = x.standardized(latents.dtype).sum(1) / real.sum(1, keepdim=True).clamp(min=1)
        ...             latents = latents + self.to_latent[name](mean).unsqueeze(1)
        ...         return latents
    """

    streams = False
    """Whether `forward` takes a `TokenStream` instead of `Tokens`."""

    @abstractmethod
    def forward(
        self, latents: Tensor, tokens: Mapping[str, Tokens], recorder: TraceRecorder | None = None
    ) -> Tensor:
        """Update the latents.

        Args:
            latents: State S of every patient.
            tokens: Tokens that the encoders returned, by modality, in the order of fusion; modalities that the whole batch
                lacks are left out.
            recorder: Recorder of attention weights where a trace is wanted.

        Shape:
            latents: (b, m, d); tokens: (b, n, c) each, with a mask (b, n); returns (b, m, d)
        """
