"""Early fusion: one Perceiver over the tokens of all modalities at once."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from einops import repeat
from torch import Tensor, nn

from healnet.baselines._model import Baseline, real_mask, real_values
from healnet.encoders import ModalityEncoder
from healnet.fusion import HybridFusionLayer, MeanHead, Output
from healnet.tokens import Tokens

__all__ = ["EarlyFusion"]


class EarlyFusion(Baseline):
    """A Perceiver over the tokens of all modalities at once (Jaegle et al. 2021, arXiv 2103.03206, sec. 3 and app. A).

    Each token is continued by its modality's learned embedding up to one width for all, as the paper fuses audio and video.
    Then, layer by layer, with X the tokens of all modalities together:

        S <- S + CrossAttention(LN(S), LN(X));  S <- S + FeedForward(LN(S));  then self-attention blocks on S

    An absent modality has no tokens, and is skipped. A patient with nothing at all gets the head of the first latents.

    Args:
        encoders: Encoder of each modality.
        out_dim: Width of the output.
        depth: Number of cross-attentions.
        num_latents: Latents m.
        latent_dim: Width d of a latent.
        embedding_dim: Least width of a modality's embedding: that of the modality with the widest tokens.
        num_heads: Attention heads.
        head_dim: Width of a head.
        self_attention: Self-attention blocks after each cross-attention.
        dropout: Dropout of attention and of the feed-forwards.
        output: Meaning of the raw output, as in `HEALNet`.

    Shape:
        inputs: As for `HEALNet`; returns (b, out_dim).

    Raises:
        ValueError: A size below 1; an unknown `output`; inputs that `HEALNet` would refuse.

    Example:
        >>> from healnet.encoders import OmicEncoder
        >>> model = EarlyFusion({"rna": OmicEncoder(50), "cnv": OmicEncoder(20)})
        >>> model({"rna": torch.randn(3, 50)}).shape
        torch.Size([3, 1])
    """

    design = "early fusion"

    def __init__(
        self,
        encoders: Mapping[str, ModalityEncoder],
        *,
        out_dim: int = 1,
        depth: int = 2,
        num_latents: int = 32,
        latent_dim: int = 64,
        embedding_dim: int = 8,
        num_heads: int = 4,
        head_dim: int = 32,
        self_attention: int = 1,
        dropout: float = 0.0,
        output: Output | None = None,
    ) -> None:
        sizes = {
            "depth": depth,
            "num_latents": num_latents,
            "latent_dim": latent_dim,
            "embedding_dim": embedding_dim,
            "num_heads": num_heads,
            "head_dim": head_dim,
        }
        super().__init__(encoders, out_dim=out_dim, output=output, sizes=sizes)
        width = embedding_dim + max(encoder.token_dim for encoder in encoders.values())
        self.embeddings = nn.ParameterDict(
            {name: nn.Parameter(torch.randn(width - e.token_dim)) for name, e in encoders.items()}
        )
        self.latents = nn.Parameter(torch.randn(num_latents, latent_dim))
        self.layers = nn.ModuleList(
            HybridFusionLayer(
                latent_dim,
                {"all": width},
                num_heads=num_heads,
                head_dim=head_dim,
                self_attention=self_attention,
                attention_dropout=dropout,
                ff_dropout=dropout,
            )
            for _ in range(depth)
        )
        self.head = MeanHead(latent_dim, out_dim)

    def predict(self, tokens: Mapping[str, Tokens], batch: int) -> Tensor:
        """Join the tokens of all modalities, and let the latents read them."""
        joined = {}
        if tokens:
            values = [self._embedded(name, x) for name, x in tokens.items()]
            joined["all"] = Tokens(
                torch.cat(values, 1), torch.cat([real_mask(x) for x in tokens.values()], 1)
            )
        latents = repeat(self.latents, "m d -> b m d", b=batch)
        for layer in self.layers:
            latents = layer(latents, joined)
        return self.head(latents)

    def _embedded(self, name: str, tokens: Tokens) -> Tensor:
        b, n, _ = tokens.values.shape
        embedding = repeat(self.embeddings[name], "e -> b n e", b=b, n=n)
        return torch.cat((real_values(tokens, embedding.dtype), embedding), dim=-1)
