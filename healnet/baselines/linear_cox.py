"""Cox's linear model on tables, with a ridge penalty."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from healnet.fusion import Output
from healnet.inputs import batch_size, element_mask, unmask
from healnet.survival import cox_nll

__all__ = ["LinearCox"]


class LinearCox(nn.Module):
    """Linear log hazard of all tables side by side, each table scaled by its width.

        log hazard = Σ_j Σ_i w_ji x_ji / sqrt(f_j)

    Cox (1972) with the ridge penalty of Verweij and van Houwelingen (1994). The scaling gives a table of two features and a
    table of a thousand the same share of the penalty, so that a few clinical variables are hardly shrunk. With `strata` it
    is one model of several cohorts, each with a baseline hazard of its own. What a patient lacks, a feature or a whole
    table, adds nothing: 0 is the training mean of a standardized feature.

    Args:
        widths: Number of features f_j of each table.

    Shape:
        inputs: (b, f) per table, or `Masked`; returns (b, 1).

    Raises:
        ValueError: No table; an unknown modality; another number of features; batch sizes that differ. Names the modality.

    Example:
        >>> rna, age = torch.randn(40, 50), torch.randn(40, 1)
        >>> time = torch.rand(40) * torch.exp(-age.squeeze(1))
        >>> model = LinearCox({"rna": 50, "age": 1}).fit({"rna": rna, "age": age}, time, torch.ones(40).bool())
        >>> bool(model.weight[-1] > 0), model({"rna": rna}).shape  # no age is known
        (True, torch.Size([40, 1]))
    """

    def __init__(self, widths: Mapping[str, int]) -> None:
        super().__init__()
        if not widths:
            raise ValueError("expected at least one table, got none")
        self.widths = dict(widths)
        self.output: Output = "cox"
        self.weight = nn.Parameter(torch.zeros(sum(self.widths.values())))

    def forward(self, inputs: Mapping[str, Any]) -> Tensor:
        """The log hazards."""
        return self._design(inputs).to(self.weight.dtype) @ self.weight.unsqueeze(1)

    def fit(
        self,
        inputs: Mapping[str, Any],
        time: Tensor,
        event: Tensor,
        *,
        strata: Tensor | None = None,
        penalty: float = 2.0,
        max_iter: int = 100,
    ) -> LinearCox:
        """Minimize the negative log partial likelihood plus penalty / 2 times the sum of squared weights. Returns itself.

        By L-BFGS in float64 from zero weights, so that nothing is random.

        Args:
            inputs: Standardized tables of the b training patients.
            time: (b,) follow-up times.
            event: (b,) bool, True = the event was observed.
            strata: (b,) numbers of the strata within which patients are compared.
            penalty: Inverse variance of the weights' normal prior: it need not grow with the cohort.
            max_iter: Largest number of steps.

        Raises:
            ValueError: A penalty that is not positive; no event; a value that is neither finite nor masked; what `forward`
                or `cox_nll` refuse.
        """
        if not penalty > 0:
            raise ValueError(f"expected a penalty above 0, got {penalty}")
        design = self._design(inputs).double()
        # Otherwise the weights would be NaN, or stay zero, without a word.
        if not bool(design.isfinite().all()):
            wrong = int((~design.isfinite()).any(dim=1).sum())
            raise ValueError(
                f"expected finite values, or Masked ones, got others for {wrong} of {len(design)} patients"
            )
        if not bool(torch.as_tensor(event).any()):
            raise ValueError(f"expected at least one observed event, got none in {len(design)} patients")
        weight = torch.zeros(design.shape[1], dtype=torch.float64, device=design.device, requires_grad=True)
        optimizer = torch.optim.LBFGS([weight], max_iter=max_iter, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = cox_nll(design @ weight, time, event, strata=strata, reduction="sum")
            loss = loss + penalty / 2 * weight.square().sum()
            loss.backward()
            return loss

        with torch.enable_grad():
            optimizer.step(closure)
        with torch.no_grad():
            self.weight.copy_(weight)
        return self

    def _design(self, inputs: Mapping[str, Any]) -> Tensor:
        """(b, f_1 + f_2 + ...), scaled, zeros where nothing is known."""
        unknown = [name for name in inputs if name not in self.widths]
        if unknown:
            raise ValueError(f"unknown modality {unknown[0]!r}: this model's tables are {list(self.widths)}")
        given = {name: value for name, value in inputs.items() if value is not None}
        batch = batch_size(given) if given else 1
        parts = []
        for name, width in self.widths.items():
            if name not in given:
                parts.append(self.weight.new_zeros(batch, width))
                continue
            values, mask = unmask(given[name])
            if values.shape != (batch, width):
                raise ValueError(
                    f"modality {name!r}: expected a shape of ({batch}, {width}), got {tuple(values.shape)}"
                )
            mask = element_mask(mask, values.shape)
            if mask is not None:
                values = values.masked_fill(~mask, 0)
            parts.append(values * width**-0.5)
        return torch.cat(parts, dim=1)
