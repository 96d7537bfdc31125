"""scikit-survival, imported when it is first asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

__all__ = ["sksurv"]


def sksurv(module: str, name: str) -> Callable[..., Any]:
    """A function of `sksurv.<module>`.

    Raises:
        ImportError: scikit-survival is not installed; says how to get it.
    """
    try:
        found = importlib.import_module(f"sksurv.{module}")
    except ImportError as error:
        raise ImportError("survival metrics need scikit-survival: pip install scikit-survival") from error
    function: Callable[..., Any] = getattr(found, name)
    return function
