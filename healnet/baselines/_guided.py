"""Designs in which the tokens of some modalities, few per patient, guide what is read of one large bag."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from healnet.baselines._model import Baseline, Missing, real_mask, real_values
from healnet.encoders import ModalityEncoder
from healnet.fusion import Output
from healnet.nn.feedforward import SelfNormalizing
from healnet.tokens import Tokens

__all__ = ["GuidedBaseline"]


class GuidedBaseline(Baseline):
    """Base class: project guides (by SELU layers) and bag (by ReLU) to one width, check who lacks what, then `fuse`.

    The guides are the tokens of all modalities but `bag`. A patient may lack some of those modalities; the bag and at least
    one guide are needed.
    """

    def __init__(
        self,
        encoders: Mapping[str, ModalityEncoder],
        bag: str,
        *,
        out_dim: int,
        dim: int,
        dropout: float,
        missing: Missing,
        output: Output | None,
        sizes: Mapping[str, int],
    ) -> None:
        super().__init__(
            encoders, out_dim=out_dim, output=output, missing=missing, sizes={"dim": dim, **sizes}
        )
        if bag not in encoders or len(encoders) < 2:
            raise ValueError(
                f"expected bag to be one of two modalities or more, got {bag!r} of {list(encoders)}"
            )
        self.bag = bag
        self.dim = dim
        self.embed_guides = nn.ModuleDict(
            {n: SelfNormalizing(e.token_dim, dim, dropout) for n, e in encoders.items() if n != bag}
        )
        self.embed_bag = nn.Sequential(
            nn.Linear(encoders[bag].token_dim, dim), nn.ReLU(), nn.Dropout(dropout)
        )

    @abstractmethod
    def fuse(self, guides: Tensor, guide_mask: Tensor, bag: Tensor, bag_mask: Tensor) -> Tensor:
        """Predict from both sets.

        Shape:
            guides: (b, g, d); guide_mask: (b, g); bag: (b, n, d); bag_mask: (b, n); returns (b, out_dim)
        """

    def predict(self, tokens: Mapping[str, Tokens], batch: int) -> Tensor:
        """Project both sets, check them, and fuse."""
        self.require([self.bag], tokens, batch)
        guides, guide_mask = self._joined(self.embed_guides, tokens, batch)
        alone = int((~guide_mask.any(dim=1)).sum()) if self.missing == "refuse" else 0
        if alone:
            raise ValueError(
                f"modality {self.bag!r}: expected every patient to have one of {list(self.embed_guides)} beside it, got "
                f"{alone} of {batch} without; {self.design} cannot miss them all (missing='zero' puts zeros in their place)"
            )
        return self.fuse(guides, guide_mask, *self._joined({self.bag: self.embed_bag}, tokens, batch))

    def _joined(
        self, embed: Mapping[str, nn.Module] | nn.ModuleDict, tokens: Mapping[str, Tokens], batch: int
    ) -> tuple[Tensor, Tensor]:
        """The projected tokens of these modalities as one set, (b, n, d), and its mask (b, n)."""
        like = next(self.embed_bag.parameters())
        values = [like.new_zeros(batch, 0, self.dim)]
        masks = [torch.zeros(batch, 0, dtype=torch.bool, device=like.device)]
        for name, project in embed.items():
            if name in tokens:
                values.append(project(real_values(tokens[name], like.dtype)))
                masks.append(real_mask(tokens[name]))
        return torch.cat(values, dim=1), torch.cat(masks, dim=1)
