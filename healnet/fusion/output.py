"""Meaning of a model's raw output: `Output`."""

from __future__ import annotations

from typing import Literal, get_args

__all__ = ["Output", "check_output"]

Output = Literal["cox", "discrete", "classes", "value"]


def check_output(output: str | None, out_dim: int | None) -> None:
    """Refuse an unknown declaration, and one that does not fit the width of the output where that is known.

    Raises:
        ValueError: An `output` that is not one of `Output`, or that `out_dim` cannot hold.
    """
    if output is None:
        return
    if output not in get_args(Output):
        raise ValueError(f"expected output to be one of {get_args(Output)} or None, got {output!r}")
    if out_dim is None or output == "discrete":
        return
    if output == "classes":
        if out_dim < 2:
            raise ValueError(f"expected out_dim of at least 2 with output='classes', got {out_dim}")
    elif out_dim != 1:
        raise ValueError(f"expected out_dim=1 with output={output!r}, got {out_dim}")
