"""The losses as thin modules, for training loops that take one: each holds its settings and calls its function."""

from __future__ import annotations

from torch import Tensor, nn

from healnet.survival._inputs import ArrayOrTensor, as_tensor
from healnet.survival.cox import cox_nll
from healnet.survival.discrete import discrete_cross_entropy, discrete_nll
from healnet.survival.ranking import ranking_loss
from healnet.survival.weibull import weibull_nll

__all__ = ["CoxNLL", "DiscreteCrossEntropy", "DiscreteNLL", "RankingLoss", "WeibullNLL"]


class DiscreteNLL(nn.Module):
    """`discrete_nll` with its settings; `bin_weights` move with the module and are saved in its state.

    Example:
        >>> import torch
        >>> loss = DiscreteNLL(alpha=0.4)
        >>> loss(torch.zeros(1, 3), torch.tensor([0]), torch.tensor([True]))
        tensor(0.6931)
    """

    bin_weights: Tensor | None

    def __init__(
        self,
        alpha: float = 0.0,
        bin_weights: ArrayOrTensor | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.reduction = reduction
        self.register_buffer("bin_weights", None if bin_weights is None else as_tensor(bin_weights))

    def forward(self, logits: Tensor, y: Tensor, event: Tensor) -> Tensor:
        """See `discrete_nll`."""
        return discrete_nll(logits, y, event, self.alpha, self.bin_weights, self.reduction)

    def extra_repr(self) -> str:
        """The settings, for `print`."""
        return f"alpha={self.alpha}, reduction={self.reduction!r}"


class DiscreteCrossEntropy(nn.Module):
    """`discrete_cross_entropy` with its settings."""

    def __init__(self, alpha: float = 0.0, reduction: str = "mean") -> None:
        super().__init__()
        self.alpha = alpha
        self.reduction = reduction

    def forward(self, logits: Tensor, y: Tensor, event: Tensor) -> Tensor:
        """See `discrete_cross_entropy`."""
        return discrete_cross_entropy(logits, y, event, self.alpha, self.reduction)

    def extra_repr(self) -> str:
        """The settings, for `print`."""
        return f"alpha={self.alpha}, reduction={self.reduction!r}"


class CoxNLL(nn.Module):
    """`cox_nll` with its settings.

    Example:
        >>> import torch
        >>> CoxNLL(ties="breslow")(torch.zeros(2, 1), torch.tensor([1.0, 2.0]), torch.tensor([True, False]))
        tensor(0.6931)
    """

    def __init__(self, ties: str = "efron", reduction: str = "mean") -> None:
        super().__init__()
        self.ties = ties
        self.reduction = reduction

    def forward(
        self,
        log_hazard: Tensor,
        time: Tensor,
        event: Tensor,
        strata: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """See `cox_nll`."""
        return cox_nll(log_hazard, time, event, self.ties, strata, weights, self.reduction)

    def extra_repr(self) -> str:
        """The settings, for `print`."""
        return f"ties={self.ties!r}, reduction={self.reduction!r}"


class RankingLoss(nn.Module):
    """`ranking_loss` with its settings."""

    def __init__(self, sigma: float | None = None, reduction: str = "mean") -> None:
        super().__init__()
        self.sigma = sigma
        self.reduction = reduction

    def forward(self, outputs: Tensor, time: Tensor, event: Tensor, y: Tensor | None = None) -> Tensor:
        """See `ranking_loss`."""
        return ranking_loss(outputs, time, event, y, self.sigma, self.reduction)

    def extra_repr(self) -> str:
        """The settings, for `print`."""
        return f"sigma={self.sigma}, reduction={self.reduction!r}"


class WeibullNLL(nn.Module):
    """`weibull_nll` with its settings."""

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, outputs: Tensor, time: Tensor, event: Tensor) -> Tensor:
        """See `weibull_nll`."""
        return weibull_nll(outputs, time, event, self.reduction)

    def extra_repr(self) -> str:
        """The settings, for `print`."""
        return f"reduction={self.reduction!r}"
