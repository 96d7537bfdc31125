"""Late fusion by the mean of single-modality models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from healnet.fusion import Output, check_output
from healnet.inputs import batch_size, present, take

__all__ = ["MeanFusion"]


class MeanFusion(nn.Module):
    """The mean of the outputs of single-modality models, over those modalities that a patient has.

        output = Σ_i present_i f_i(x_i) / Σ_i present_i

    The simplest late fusion (Baltrušaitis, Ahuja and Morency 2018, arXiv 1705.09406, sec. 6.1). The models may be trained
    before, each by itself, or together through the mean. Each sees only patients who have its modality, so that it need not
    know about absence. A patient with nothing at all gets zeros.

    Args:
        models: Model of each modality. It takes {modality: input} and returns (b, out_dim).
        out_dim: Width of the output.
        output: Meaning of the raw output, as in `HEALNet`.

    Shape:
        inputs: As for `HEALNet`; returns (b, out_dim).

    Raises:
        ValueError: No model; an unknown `output`; an unknown modality; an input that is neither a tensor nor has a
            mask, or that its model refuses; batch sizes that differ.

    Example:
        >>> import torch
        >>> from healnet import HEALNet
        >>> from healnet.encoders import OmicEncoder
        >>> model = MeanFusion({name: HEALNet({name: OmicEncoder(5)}) for name in ("rna", "cnv")})
        >>> model({"rna": torch.randn(3, 5)}).shape
        torch.Size([3, 1])
    """

    def __init__(
        self, models: Mapping[str, nn.Module], *, out_dim: int = 1, output: Output | None = None
    ) -> None:
        super().__init__()
        if not models:
            raise ValueError("expected at least one model, got none")
        check_output(output, out_dim)
        self.out_dim = out_dim
        self.output = output
        self.models = nn.ModuleDict(models)

    def forward(self, inputs: Mapping[str, Any]) -> Tensor:
        """The mean of the models' outputs."""
        unknown = [name for name in inputs if name not in self.models]
        if unknown:
            raise ValueError(
                f"unknown modality {unknown[0]!r}: this model's modalities are {list(self.models)}"
            )
        given = {name: value for name, value in inputs.items() if value is not None}
        batch = batch_size(given) if given else 1
        like = next(self.parameters())
        total, count = like.new_zeros(batch, self.out_dim), like.new_zeros(batch, 1)
        for name, model in self.models.items():
            if name not in given:
                continue
            has = _present(name, given[name], batch)
            rows = has.nonzero().squeeze(1)
            if len(rows):
                output = model({name: take(given[name], rows)})
                total = total.index_add(0, rows, output.to(total.dtype))  # of half precision under autocast
            count = count + has.unsqueeze(1)
        return total / count.clamp(min=1)


def _present(name: str, value: Any, batch: int) -> Tensor:
    try:
        has = present(value)
    except ValueError as error:
        raise ValueError(f"modality {name!r}: {error}") from error
    if len(has) != batch:
        raise ValueError(f"modality {name!r}: expected a batch of {batch} patients, got {len(has)}")
    return has
