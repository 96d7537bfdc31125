"""Checks of what callers pass, and the array types that the survival files share.

Every refusal is a ValueError that reads "expected X, got Y". One value per patient may come as (n,) or (n, 1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from healnet.survival._order import check_order

__all__ = [
    "ArrayOrTensor",
    "Floats",
    "Index",
    "as_array",
    "as_bins",
    "as_cause",
    "as_event",
    "as_strata",
    "as_tensor",
    "as_vector",
    "check_choice",
    "check_inside",
    "check_labels",
    "check_least",
    "check_logits",
    "check_nonnegative",
    "check_probabilities",
    "check_risk",
    "check_times",
    "check_times_at",
    "check_values",
    "column",
    "one_output",
    "require",
    "widen",
]

ArrayOrTensor = Tensor | NDArray[Any] | Sequence[Any]
Floats = NDArray[np.float64]
Index = NDArray[np.int64]
_Values = TypeVar("_Values", Tensor, NDArray[Any])


def as_tensor(values: ArrayOrTensor) -> Tensor:
    """Return a tensor as it is, anything else as a copy: torch warns of read-only arrays, and reads lists as float32."""
    return values if isinstance(values, Tensor) else torch.tensor(np.asarray(values))


def as_array(values: Any) -> NDArray[Any]:
    """Return anything as an array: also tensors with a graph, on a GPU, or bfloat16, which numpy lacks."""
    if not isinstance(values, Tensor):
        return np.asarray(values)
    values = values.detach().cpu()
    array: NDArray[Any] = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    return array


def column(values: _Values) -> _Values:
    """Return (n,) from (n, 1), any other shape as it is."""
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values


def require(values: Tensor, right: Tensor, expected: str) -> Tensor:
    """Return `values` if all are right; also inside a compiled graph, which a Python `if` would break.

    Raises:
        ValueError: One is not; names the first.
    """
    if torch.compiler.is_compiling():
        checked: Tensor = _compiled_require(values, right, expected)
        return checked
    if not bool(right.all()):
        raise _refusal(as_array(values), as_array(right), expected)
    return values


@torch.library.custom_op(
    "healnet::require", mutates_args=(), schema="(Tensor x, Tensor right, str expected) -> Tensor"
)
def _compiled_require(x: Tensor, right: Tensor, expected: str) -> Tensor:
    if not bool(right.all()):
        raise _refusal(as_array(x), as_array(right), expected)
    return x.clone()


@_compiled_require.register_fake
def _(x: Tensor, right: Tensor, expected: str) -> Tensor:
    return torch.empty_like(x)


def _refusal(values: NDArray[Any], right: NDArray[Any], expected: str) -> ValueError:
    wrong = np.flatnonzero(~right)
    return ValueError(
        f"expected {expected}, got {values.flat[wrong[0]]:g} at position {wrong[0]} "
        f"({len(wrong)} of {values.size} are wrong)"
    )


# What losses take: tensors on the device of the outputs.


def widen(outputs: Tensor, name: str) -> Tensor:
    """Return float32 from half precision, float32 and float64 as they are: losses accumulate in no less than float32.

    Raises:
        ValueError: Not floating point.
    """
    if not outputs.is_floating_point():
        raise ValueError(f"expected {name} of floating point, got {outputs.dtype}")
    return outputs.float() if outputs.dtype in (torch.float16, torch.bfloat16) else outputs


def one_output(outputs: Tensor, name: str) -> Tensor:
    """Return (b,) from (b,) or (b, 1), in no less than float32.

    Raises:
        ValueError: Another shape, not floating point.
    """
    vector = column(outputs)
    if vector.dim() != 1:
        raise ValueError(f"expected {name} of shape (b,) or (b, 1), got {tuple(outputs.shape)}")
    return widen(vector, name)


def check_logits(logits: Tensor) -> Tensor:
    """Return logits (b, k), or (b, r, k) for r competing causes, in no less than float32.

    Raises:
        ValueError: Another number of axes, no bins, no causes, not floating point.
    """
    if logits.dim() not in (2, 3) or 0 in logits.shape[1:]:
        raise ValueError(
            "expected logits of shape (b, k), one per time bin, or (b, r, k) for r competing causes, "
            f"got {tuple(logits.shape)}"
        )
    return widen(logits, "logits")


def as_vector(values: ArrayOrTensor, name: str, like: Tensor) -> Tensor:
    """Return values (b,) on the device of `like`, one for each of its b rows.

    Raises:
        ValueError: None, another shape than (b,) or (b, 1), something else than numbers.
    """
    if values is None:  # a batch without outcomes
        raise ValueError(
            f"expected {name}, one value per patient, got None: a survival loss needs patients with outcomes"
        )
    try:
        tensor = as_tensor(values).to(like.device)
    except TypeError as error:  # text and objects have no tensor
        raise ValueError(f"expected {name} of numbers, got {np.asarray(values).dtype}") from error
    vector, b = column(tensor), like.shape[0]
    if vector.shape != (b,):
        raise ValueError(
            f"expected {name} of shape ({b},) or ({b}, 1), one value per patient, got {tuple(tensor.shape)}"
        )
    return vector


def as_event(event: ArrayOrTensor, like: Tensor) -> Tensor:
    """Return (b,) bool from bool or 0/1; bool needs no look at the values, so a GPU does not stall.

    Raises:
        ValueError: Another shape, or a label other than 0 and 1.
    """
    vector = as_vector(event, "event", like)
    if vector.dtype == torch.bool:
        return vector
    return require(vector, (vector == 0) | (vector == 1), "event to be bool or exactly 0 or 1").bool()


def as_strata(strata: ArrayOrTensor, like: Tensor) -> Tensor:
    """Return the number of each patient's stratum, (b,).

    Raises:
        ValueError: Another shape, something else than numbers, NaN, which would be a stratum for each patient.
    """
    vector = as_vector(strata, "strata", like)
    if not vector.is_floating_point():
        return vector
    return require(vector, ~torch.isnan(vector), "strata of every patient to be a number")


def as_cause(cause: ArrayOrTensor, num_causes: int, like: Tensor) -> Tensor:
    """Return (b,) int64: 0 = censored, 1..r = which of r causes was observed.

    Raises:
        ValueError: Another shape or type, a cause outside 0..r.
    """
    vector = as_vector(cause, "event", like)
    if vector.is_floating_point():
        raise ValueError(
            f"expected event of integers, 0 = censored or the cause 1..{num_causes}, got {vector.dtype}"
        )
    return _in_range(
        vector, num_causes, f"event in 0..{num_causes} for {num_causes} causes (0 = censored)"
    ).long()


def as_bins(y: ArrayOrTensor, num_bins: int, like: Tensor) -> Tensor:
    """Return the bin of each patient, (b,) int64 in 0..k-1.

    Raises:
        ValueError: Another shape or type, a bin outside 0..k-1.
    """
    vector = as_vector(y, "y", like)
    if vector.is_floating_point() or vector.dtype == torch.bool:
        raise ValueError(f"expected y of integer bins, as TimeBins.transform gives them, got {vector.dtype}")
    return _in_range(vector, num_bins - 1, f"y in 0..{num_bins - 1} for logits of {num_bins} bins").long()


def _in_range(values: Tensor, largest: int, expected: str) -> Tensor:
    # Only where looking is free: on a GPU this would stall every step, and gather has its own assertion there.
    if values.device.type != "cpu":
        return values
    return require(values, (values >= 0) & (values <= largest), expected)


# What metrics and fitted objects take: arrays of float64.


def check_times(time: ArrayLike) -> Floats:
    """Return (n,) float64 follow-up times, finite and >= 0.

    Raises:
        ValueError: Another shape than (n,) or (n, 1), something else than numbers, a wrong time.
    """
    given = column(as_array(time))
    if given.dtype.kind in "bMmc":  # events instead of times; dates, which numpy turns into nanoseconds
        raise ValueError(f"expected time of numbers, got {given.dtype}")
    try:
        times = given.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected time of numbers, got {given.dtype}") from error
    if times.ndim != 1:
        raise ValueError(f"expected time of shape (n,) or (n, 1), got {times.shape}")
    return _all(times, np.isfinite(times) & (times >= 0), "time to be finite and >= 0")


def check_labels(labels: ArrayLike, name: str) -> NDArray[np.bool_]:
    """Return (n,) bool from bool or exactly {0, 1}.

    Raises:
        ValueError: Another shape than (n,) or (n, 1), another type, another label.
    """
    values = column(as_array(labels))
    if values.dtype == object:
        values = np.asarray(values.tolist())  # a pandas column of Python bools arrives as objects
    if values.ndim != 1:
        raise ValueError(f"expected {name} of shape (n,) or (n, 1), got {values.shape}")
    if values.size and values.dtype.kind not in "biuf":
        raise ValueError(f"expected {name} to be bool or exactly 0 or 1, got {values.dtype}")
    right = (values == 0) | (values == 1)
    return _all(values, right, f"{name} to be bool or exactly 0 or 1").astype(np.bool_)


def check_risk(risk: ArrayLike, target: Any, name: str = "risk") -> Floats:
    """Return (n,) float64, one finite value per patient.

    Args:
        risk: Values, (n,) or (n, 1); a pandas object may know its patients by its index.
        target: SurvivalTarget of the n patients.
        name: Name for messages.

    Raises:
        ValueError: A target of another type, as when the arguments are swapped, another shape than (n,) or (n, 1), a value
            that is not finite, patients in another order.
    """
    if not (hasattr(target, "event") and hasattr(target, "patients")):
        raise ValueError(
            f"expected a SurvivalTarget after {name}, got {type(target).__name__}: the prediction comes first"
        )
    check_order(risk, target, name)
    return check_values(risk, len(target), name)


def check_values(values: ArrayLike, n: int, name: str) -> Floats:
    """Return (n,) float64, one finite value per patient.

    Raises:
        ValueError: Another shape than (n,) or (n, 1), a value that is not finite.
    """
    given = np.asarray(as_array(values), dtype=np.float64)
    values = column(given)
    if values.shape != (n,):
        raise ValueError(
            f"expected {name} of shape ({n},) or ({n}, 1), one value per patient, got {given.shape}"
        )
    return _all(values, np.isfinite(values), f"{name} to be finite")


def check_probabilities(survival: ArrayLike, shape: tuple[int, ...]) -> Floats:
    """Return float64 probabilities of that shape; (n, 1) is taken as (n,).

    Raises:
        ValueError: Another shape, a value outside [0, 1].
    """
    given = np.asarray(as_array(survival), dtype=np.float64)
    values = column(given) if len(shape) == 1 else given
    if values.shape != shape:
        axes = ", one value per patient" if len(shape) == 1 else ", patients by times"
        raise ValueError(f"expected survival of shape {shape}{axes}, got {given.shape}")
    return _all(values, (values >= 0) & (values <= 1), "survival to hold probabilities in [0, 1]")


def _all(values: NDArray[Any], right: NDArray[np.bool_], expected: str) -> NDArray[Any]:
    if not right.all():
        raise _refusal(values, right, expected)
    return values


# Times at which a curve is read, and settings.


def check_times_at(times: _Values, num_patients: int) -> _Values:
    """Return times >= 0: (t,) the same for all patients, or (b, t) each patient's own.

    Raises:
        ValueError: Another shape, a time that is negative or NaN.
    """
    if times.ndim not in (1, 2) or (times.ndim == 2 and len(times) != num_patients):
        raise ValueError(f"expected times of shape (t,) or ({num_patients}, t), got {tuple(times.shape)}")
    return check_nonnegative(times)


def check_nonnegative(times: _Values) -> _Values:
    """Return times of any shape, >= 0.

    Raises:
        ValueError: A time that is negative or NaN.
    """
    right = times >= 0
    if not bool(right.all()):
        raise _refusal(as_array(times), as_array(right), "times to be >= 0")
    return times


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a setting that is none of the choices.

    Raises:
        ValueError: Another value.
    """
    if value not in choices:
        *most, last = map(repr, choices)
        raise ValueError(f"expected {name} {', '.join(most)} or {last}, got {value!r}")


def check_inside(name: str, value: float, interval: str = "(0, 1)") -> None:
    """Refuse a number outside an interval, such as a percentage for a share.

    Args:
        name: Name of the argument.
        value: Its value.
        interval: "(0, 1)" or "[0, 1]".

    Raises:
        ValueError: Outside the interval.
    """
    inside: Callable[[float], bool] = {"(0, 1)": lambda v: 0 < v < 1, "[0, 1]": lambda v: 0 <= v <= 1}[
        interval
    ]
    if not inside(value):
        raise ValueError(f"expected {name} in {interval}, got {value}")


def check_least(name: str, value: int, least: int) -> None:
    """Refuse a count below the least.

    Raises:
        ValueError: Fewer.
    """
    if value < least:
        raise ValueError(f"expected {name} >= {least}, got {value}")
