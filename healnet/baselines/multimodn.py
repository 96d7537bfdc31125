"""MultiModN: one state per patient, updated by each modality in turn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from healnet.baselines._embedding import Embeddings
from healnet.baselines._model import Baseline
from healnet.encoders import ModalityEncoder
from healnet.fusion import Output
from healnet.tokens import Tokens

__all__ = ["MultiModN"]


class MultiModN(Baseline):
    """Modular sequential fusion (Swamy et al. 2023, arXiv 2309.14118, sec. 3).

    A state vector starts the same for every patient; each modality's module updates it, in the order of `encoders`, and a
    module whose modality a patient lacks is skipped. The decoder can read the state after any step:

        s_0 learned;   s_i = E_i(s_{i-1}, h_i);   output = D(s_j)

    E_i has one hidden layer with ReLU; h_i is the modality's embedding (self-normalizing layers on its tokens, then gated
    attention over them). The paper trains the decoder on every state: `steps` gives all outputs for such a loss.

    Args:
        encoders: Encoder of each modality; their order is that of the updates.
        out_dim: Width of the output.
        dim: Width of the embeddings and of the hidden layer.
        state_dim: Width of the state.
        dropout: Dropout of the embeddings and of the hidden layer.
        output: Meaning of the raw output, as in `HEALNet`.

    Shape:
        inputs: As for `HEALNet`; returns (b, out_dim).

    Raises:
        ValueError: A size below 1; an unknown `output`; inputs that `HEALNet` would refuse.

    Example:
        >>> from healnet.encoders import OmicEncoder
        >>> model = MultiModN({"rna": OmicEncoder(50, "vector"), "cnv": OmicEncoder(20, "vector")})
        >>> model.steps({"rna": torch.randn(3, 50)}).shape  # nothing was read; rna was; cnv is absent
        torch.Size([3, 3, 1])
    """

    design = "MultiModN"

    def __init__(
        self,
        encoders: Mapping[str, ModalityEncoder],
        *,
        out_dim: int = 1,
        dim: int = 256,
        state_dim: int = 64,
        dropout: float = 0.25,
        output: Output | None = None,
    ) -> None:
        sizes = {"dim": dim, "state_dim": state_dim}
        super().__init__(encoders, out_dim=out_dim, output=output, sizes=sizes)
        self.embed = Embeddings({name: e.token_dim for name, e in encoders.items()}, dim, dropout)
        self.state = nn.Parameter(torch.randn(state_dim))
        self.updates = nn.ModuleDict(
            {
                name: nn.Sequential(
                    nn.Linear(state_dim + dim, dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(dim, state_dim)
                )
                for name in encoders
            }
        )
        self.decoder = nn.Linear(state_dim, out_dim)

    def predict(self, tokens: Mapping[str, Tokens], batch: int) -> Tensor:
        """Decode the last state."""
        return self.decoder(self._states(tokens, batch)[-1])

    def steps(self, inputs: Mapping[str, Any]) -> Tensor:
        """The output from every state, (b, 1 + j, out_dim): before any modality, then after each; a skipped one repeats."""
        return self.decoder(torch.stack(self._states(*self.encode(inputs)), dim=1))

    def _states(self, tokens: Mapping[str, Tokens], batch: int) -> list[Tensor]:
        vectors, present = self.embed(tokens, batch)
        states = [self.state.expand(batch, -1)]
        for i, update in enumerate(self.updates.values()):
            updated = update(torch.cat((states[-1], vectors[:, i]), dim=1))
            states.append(torch.where(present[:, i : i + 1], updated, states[-1]))
        return states
