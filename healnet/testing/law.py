"""Error for a law that does not hold, and comparisons that raise it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from healnet.tokens import Tokens

__all__ = ["LawBrokenError", "Laws", "real_tokens", "tensors"]

TOLERANCE = 1e-10  # float64


class LawBrokenError(AssertionError):
    """A law of the library does not hold; the message names the module, the law, the finding and the likely cause."""


class Laws:
    """The laws of one module under test.

    Args:
        subject: Name of the module that is checked, such as "modality 'rna' (OmicEncoder)"; every message begins with it.
    """

    def __init__(self, subject: str) -> None:
        self.subject = subject

    def broken(self, law: str, finding: str, cause: str = "") -> LawBrokenError:
        """The error to raise."""
        return LawBrokenError(
            f"{self.subject}: {law}: {finding}" + (f"; likely cause: {cause}" if cause else "")
        )

    @contextmanager
    def holds(self, law: str, cause: str = "") -> Iterator[None]:
        """A context in which every exception means that the law is broken."""
        try:
            yield
        except LawBrokenError:
            raise
        except Exception as error:
            raise self.broken(law, f"got {type(error).__name__}: {error}", cause) from error

    def same(self, law: str, expected: Any, got: Any, cause: str = "") -> None:
        """Require equal tensors, to rounding in float64; outputs may be tuples or mappings of tensors."""
        left, right = tensors(expected), tensors(got)
        if list(left) != list(right):
            raise self.broken(law, f"expected parts {list(left)}, got {list(right)}", cause)
        for name in left:
            self._same_tensor(law + (f" ({name})" if name else ""), left[name], right[name], cause)

    def same_tokens(self, law: str, expected: Tokens, got: Tokens, cause: str = "") -> None:
        """Require equal real tokens of each patient, in order; padding may differ."""
        for row in range(len(expected.values)):
            left, right = real_tokens(expected, row), real_tokens(got, row)
            if left.shape != right.shape:
                finding = f"expected {len(left)} real tokens of patient {row}, got {len(right)}"
                raise self.broken(law, finding, cause)
            self._same_tensor(law, left, right, cause)

    def unchanged(self, law: str, before: Any, after: Any, cause: str = "") -> None:
        """Require an input that is as it was, bit for bit."""
        left, right = tensors(before), tensors(after)
        for name in left:
            if not torch.equal(left[name], right[name]):
                raise self.broken(law, f"{name or 'the tensor'} changed", cause)

    def _same_tensor(self, law: str, expected: Tensor, got: Tensor, cause: str) -> None:
        if expected.shape != got.shape:
            raise self.broken(law, f"expected shape {tuple(expected.shape)}, got {tuple(got.shape)}", cause)
        if not expected.numel():
            return
        difference = float((expected - got).detach().abs().max())
        if not difference <= TOLERANCE * max(1.0, float(expected.detach().abs().max())):
            raise self.broken(law, f"the largest difference is {difference:.3g}", cause)


def tensors(value: Any, name: str = "") -> dict[str, Tensor]:
    """The tensors of an input or output by name: a tensor, or a NamedTuple, tuple, list or mapping of them."""
    if isinstance(value, Tensor):
        return {name: value}
    found: dict[str, Tensor] = {}
    if isinstance(value, Mapping):
        parts = [(str(key), part) for key, part in value.items()]
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        parts = list(zip(value._fields, value, strict=True))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        parts = [(str(number), part) for number, part in enumerate(value)]
    else:
        parts = []
    for key, part in parts:
        found |= tensors(part, f"{name}.{key}" if name else key)
    return found


def real_tokens(tokens: Tokens, row: int) -> Tensor:
    """(real, c): the real tokens of one patient."""
    return tokens.values[row] if tokens.mask is None else tokens.values[row][tokens.mask[row]]
