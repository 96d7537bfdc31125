"""Cox's loss over more patients than fit into one forward pass: `CoxAccumulator`."""

from __future__ import annotations

import torch
from torch import Tensor

from healnet.survival._checks import ArrayOrTensor, as_event, as_strata, as_vector, one_output
from healnet.survival.losses.cox import cox_nll

__all__ = ["CoxAccumulator"]


class CoxAccumulator:
    """Collects log hazards with their graphs over several forward passes, for one Cox loss over all of them.

    Bags of whole slides are often read one patient at a time, and the partial likelihood of one patient is constant.
    The loss over the collected patients has exactly the gradient of one forward pass of them all. Activations of each
    pass are kept until `clear`, so collect as many patients as memory holds; with the model under
    `torch.utils.checkpoint` only their inputs are kept.

    Args:
        ties: Treatment of ties, "efron" or "breslow", as in `cox_nll`.

    Example:
        >>> model = torch.nn.Linear(3, 1)
        >>> collected = CoxAccumulator()
        >>> for time, event in [(5.0, True), (3.0, True), (8.0, False)]:
        ...     collected.add(model(torch.ones(1, 3)), torch.tensor([time]), torch.tensor([event]))
        >>> len(collected)
        3
        >>> collected.loss().backward()
        >>> collected.clear()
    """

    def __init__(self, ties: str = "efron") -> None:
        self.ties = ties
        self._parts: list[tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]] = []

    def __len__(self) -> int:
        """Return the number of patients collected."""
        return sum(len(part[0]) for part in self._parts)

    def add(
        self,
        log_hazard: Tensor,
        time: ArrayOrTensor,
        event: ArrayOrTensor,
        strata: ArrayOrTensor | None = None,
        weights: ArrayOrTensor | None = None,
    ) -> None:
        """Keep the outputs of one forward pass.

        Shape:
            log_hazard: (b,) or (b, 1)
            time, event, strata, weights: (b,)

        Raises:
            ValueError: Other shapes, labels other than 0 and 1, NaN strata, strata or weights for some parts only.
        """
        eta = one_output(log_hazard, "log_hazard")
        part = (
            eta,
            as_vector(time, "time", eta),
            as_event(event, eta),
            None if strata is None else as_strata(strata, eta),
            None if weights is None else as_vector(weights, "weights", eta),
        )
        if self._parts:
            for name, given, before in zip(("strata", "weights"), part[3:], self._parts[0][3:], strict=True):
                if (given is None) != (before is None):
                    had, has = ("none" if x is None else "some" for x in (before, given))
                    raise ValueError(
                        f"expected {name} with every part or with none, got {had} before, now {has}"
                    )
        self._parts.append(part)

    def loss(self, reduction: str = "mean") -> Tensor:
        """Return `cox_nll` over all patients collected.

        Raises:
            ValueError: Nothing was collected; what `cox_nll` refuses.
        """
        if not self._parts:
            raise ValueError("expected patients to be added before loss, got none")
        etas, times, events, strata_parts, weight_parts = zip(*self._parts, strict=True)
        eta, event, time = torch.cat(etas), torch.cat(events), _joined(times)
        strata, weights = _joined(strata_parts), _joined(weight_parts)
        assert time is not None
        return cox_nll(eta, time, event, self.ties, strata, weights, reduction)

    def clear(self) -> None:
        """Forget what was collected, and the graphs with it; call it after the optimizer's step."""
        self._parts.clear()


def _joined(column: tuple[Tensor | None, ...]) -> Tensor | None:
    parts = [part for part in column if part is not None]
    if (
        len({part.dtype for part in parts}) > 1
    ):  # float32, to which torch joins whole numbers, would round them
        parts = [part.double() for part in parts]
    return torch.cat(parts) if parts else None
