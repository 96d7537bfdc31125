"""State of a softmax over some of the tokens, which merges with that over the others: `SoftmaxState`.

So attention may be taken over parts (chunks of one tensor, pieces read from disk, shards of several processes), exactly.

Source: online softmax, Milakov and Gimelshein 2018 (arXiv 1805.02867).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["SoftmaxState", "finite_lse"]


class SoftmaxState(NamedTuple):
    """The state of a softmax-weighted mean over some of the tokens; states over disjoint tokens merge exactly.

    Shape:
        maximum: (..., r) a reference score, of any value at least near the largest; -inf where no token was seen.
        total: (..., r) the sum over tokens of exp(score - maximum).
        weighted: (..., r, c) the sum over tokens of exp(score - maximum) * value.

    Example:
        >>> scores, values = torch.randn(1, 10), torch.randn(10, 3)
        >>> def state(s, v):
        ...     top = s.amax(-1)
        ...     p = (s - top.unsqueeze(-1)).exp()
        ...     return SoftmaxState(top, p.sum(-1), p @ v)
        >>> merged = state(scores[:, :4], values[:4]).merge(state(scores[:, 4:], values[4:]))
        >>> torch.allclose(merged.output(), scores.softmax(-1) @ values, atol=1e-6)
        True
    """

    maximum: Tensor
    total: Tensor
    weighted: Tensor

    @classmethod
    def from_output(cls, output: Tensor, lse: Tensor) -> SoftmaxState:
        """The state of a finished attention from its output (..., r, c) and log-sum-exp (..., r)."""
        seen = ~torch.isneginf(lse)
        return cls(lse, seen.to(output.dtype), output)

    def rescaled(self, maximum: Tensor) -> SoftmaxState:
        """The same state relative to another reference score, at least near the largest."""
        factor = (self.maximum - finite_lse(maximum)).exp()
        return SoftmaxState(maximum, self.total * factor, self.weighted * factor.unsqueeze(-1))

    def merge(self, other: SoftmaxState) -> SoftmaxState:
        """The state over the tokens of both."""
        top = torch.maximum(self.maximum, other.maximum)
        left, right = self.rescaled(top), other.rescaled(top)
        return SoftmaxState(top, left.total + right.total, left.weighted + right.weighted)

    def output(self) -> Tensor:
        """(..., r, c): the weighted mean; zero where no token was seen."""
        total = self.total.unsqueeze(-1)
        return self.weighted / torch.where(total == 0, torch.ones_like(total), total)

    def lse(self) -> Tensor:
        """(..., r): the logarithm of the sum of the exponentials of the scores; -inf where no token was seen."""
        return self.maximum + self.total.log()


def finite_lse(lse: Tensor) -> Tensor:
    """A maximum or log-sum-exp with 0 instead of -inf: exp(-inf - 0) is then 0, where exp(-inf + inf) is NaN."""
    return lse.masked_fill(torch.isneginf(lse), 0)
