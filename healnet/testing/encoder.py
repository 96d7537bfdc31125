"""Check an encoder against the laws that every encoder keeps: `check_encoder`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from healnet.encoders.base import ModalityEncoder
from healnet.inputs import map_tensors, take
from healnet.testing.law import Laws, tensors
from healnet.testing.masked_examples import (
    MaskedExample,
    as_double,
    element_masked,
    example_size,
    extra_axis,
    more_padding,
    whole_patient,
)
from healnet.tokens import Tokens

__all__ = ["check_encoder"]

RETURNS = "it returns Tokens of its token_dim"
KEEPS_INPUT = "the input is not mutated"
REPEATS = "a second call gives the same"
ALONE = "patients do not mix"
ABSENT = "a patient who is all masked has no real token"
MASKED = "what is masked changes nothing"
GRADIENTS = "gradients are finite, and exactly zero for what is masked"
PADDING = "padding changes nothing"
REFUSES = "a wrong shape is refused with a ValueError"

NOT_PASSED = "forward() does not pass element_mask(mask, ...) to Tokens"
FILL_FIRST = (
    "a sum, mean or layer reads masked elements; fill them with values.masked_fill(~mask, 0) before anything is computed, "
    "and divide by the number of real ones (0 * NaN is NaN)"
)


def check_encoder(
    encoder: ModalityEncoder,
    inputs: Any,
    *,
    pad: Callable[[Any], Any] | None = None,
    wrong: Sequence[Any] | None = None,
    modality: str | None = None,
    seed: int = 0,
) -> None:
    """Check an encoder against the laws that every encoder keeps.

    Masks of elements are made here, whatever the example holds, and what they mask is moved; an encoder may refuse them with
    a ValueError, but not take them and be wrong. Masks of whole patients every encoder takes.

    Args:
        encoder: Encoder to check.
        inputs: Example batch of at least two patients, finite, floating point.
        pad: Function that returns the same input with more padding (default: more masked elements at the end, for inputs
            with a mask of elements).
        wrong: Inputs that must be refused with a ValueError (default: the example with one axis too many).
        modality: Name for messages.
        seed: Seed of the random masks.

    Raises:
        LawBrokenError: a law does not hold, or anything else went wrong.
        ValueError: An example that cannot serve: one patient only, or non-finite values.
    """
    kind = type(encoder).__name__
    laws = Laws(f"encoder {kind}" if modality is None else f"modality {modality!r} ({kind})")
    encoder = copy.deepcopy(encoder).double().eval()
    inputs = as_double(inputs)
    size = example_size(inputs)
    generator = torch.Generator().manual_seed(seed)

    before = copy.deepcopy(inputs)
    with laws.holds(RETURNS, "forward() fails on the example itself"):
        tokens = encoder(inputs)
    _check_tokens(laws, tokens, size, encoder.token_dim)
    laws.unchanged(KEEPS_INPUT, before, inputs, "an in-place operation; work on a copy")
    with laws.holds(REPEATS):
        again = encoder(inputs)
    laws.same_tokens(REPEATS, tokens, again, "dropout or noise in evaluation mode, or a counter or cache")
    _check_alone(laws, encoder, inputs, tokens)
    _check_absence(laws, encoder, inputs, tokens)
    padded = [] if pad is None else [(tokens, pad(inputs))]
    if pad is None:
        padded.append((tokens, more_padding(inputs)))
    for alternatives in element_masked(inputs, generator):
        taken = next((x for x in ((e, _try(encoder, e)) for e in alternatives) if x[1] is not None), None)
        if taken is None:
            continue  # masks of elements are refused, as they may be
        example, masked_tokens = taken
        assert masked_tokens is not None
        _check_tokens(laws, masked_tokens, size, encoder.token_dim)
        _check_masked(laws, encoder, example, masked_tokens)
        _check_alone(laws, encoder, example.inputs, masked_tokens)
        if pad is None:
            padded.append((masked_tokens, more_padding(example.inputs)))
    for expected, longer in padded:
        if longer is not None:
            _check_padding(laws, encoder, expected, longer, optional=pad is None)
    for bad in [extra_axis(inputs)] if wrong is None else wrong:
        _check_refused(laws, encoder, bad)


def _check_tokens(laws: Laws, tokens: Any, size: int, width: int) -> None:
    if not isinstance(tokens, Tokens):
        raise laws.broken(
            RETURNS, f"expected Tokens, got {type(tokens).__name__}", "return Tokens(values, mask)"
        )
    got = tuple(tokens.values.shape)
    if got[0] != size or got[2] != width:
        cause = (
            "token_dim is not the width of what forward() returns" if got[2] != width else "patients are lost"
        )
        raise laws.broken(RETURNS, f"expected a shape of ({size}, n, {width}), got {got}", cause)


def _try(encoder: ModalityEncoder, example: MaskedExample) -> Tokens | None:
    try:
        return encoder(example.inputs)
    except ValueError:
        return None


def _check_alone(laws: Laws, encoder: ModalityEncoder, inputs: Any, tokens: Tokens) -> None:
    cause = "a statistic over the batch, such as values.mean() or batch normalization"
    for row in range(len(tokens.values)):
        index = torch.tensor([row])
        own = _rows(tokens, index)
        law = f"{ALONE}, patient {row} alone gives what the batch gives"
        with laws.holds(law, "forward() needs more than one patient"):
            alone = encoder(take(inputs, index))
            _check_tokens(laws, alone, 1, encoder.token_dim)
        laws.same_tokens(law, own, alone, cause)


def _check_absence(laws: Laws, encoder: ModalityEncoder, inputs: Any, tokens: Tokens) -> None:
    """Hide one patient, whose numbers become NaN: no token of theirs may be real, and those of the others must stay."""
    example = whole_patient(inputs, 0)
    with laws.holds(ABSENT, "forward() does not take Masked(values, mask); see healnet.inputs.unmask"):
        encoded = encoder(example.replaced(lambda x: torch.full_like(x, torch.nan)))
    if encoded.mask is None:
        raise laws.broken(ABSENT, "forward() returned Tokens without a mask", NOT_PASSED)
    real = encoded.mask.any(dim=1)
    if bool(real[0]):
        inverted = not bool(real[1:].any())
        cause = "the mask is inverted: True means real" if inverted else NOT_PASSED
        found = f"patient 0 of {len(real)} has {int(encoded.mask[0].sum())} of {encoded.mask.shape[1]} real tokens"
        raise laws.broken(ABSENT, found, cause)
    for row in range(1, len(real)):
        index = torch.tensor([row])
        law = f"hiding patient 0 changes nothing for patient {row}"
        laws.same_tokens(law, _rows(tokens, index), _rows(encoded, index), FILL_FIRST)
    _check_gradients(laws, encoder, example)


def _check_masked(laws: Laws, encoder: ModalityEncoder, example: MaskedExample, tokens: Tokens) -> None:
    """Move masked elements to other numbers, then to NaN: real tokens must stay as they are."""
    for finding, value in (
        ("moved to other numbers", lambda x: 5 - 3 * x),
        ("turned into NaN", lambda x: torch.full_like(x, torch.nan)),
    ):
        law = f"{MASKED}, when it is {finding}"
        with laws.holds(law, FILL_FIRST):
            moved = encoder(example.replaced(value))
        laws.same_tokens(law, tokens, moved, FILL_FIRST)
    _check_gradients(laws, encoder, example)


def _check_gradients(laws: Laws, encoder: ModalityEncoder, example: MaskedExample) -> None:
    def leaf(tensor: Tensor, name: str) -> Tensor:
        return tensor.clone().requires_grad_() if tensor.is_floating_point() else tensor

    inputs = map_tensors(leaf, example.inputs)
    leaves = {name: x for name, x in tensors(inputs).items() if x.is_floating_point()}
    parameters = {name: p for name, p in encoder.named_parameters() if p.requires_grad}
    with laws.holds(GRADIENTS):
        encoded = encoder(inputs)
        if not encoded.values.requires_grad:
            return
        values = encoded.values
        if encoded.mask is not None:
            values = values.masked_fill(~encoded.mask.unsqueeze(-1), 0)
        weights = torch.linspace(-1, 1, values.numel(), dtype=values.dtype).view_as(values)
        wanted = {**leaves, **parameters}
        gradients = torch.autograd.grad((values * weights).sum(), list(wanted.values()), allow_unused=True)
    cause = (
        "masked elements reach the computation, or a division by the number of real ones where there are none"
    )
    for name, gradient in zip(wanted, gradients, strict=True):
        if gradient is not None and not bool(torch.isfinite(gradient).all()):
            raise laws.broken(GRADIENTS, f"the gradient of {name or 'the input'} is not finite", cause)
        masked = example.masked.get(name) if name in leaves else None
        if gradient is not None and masked is not None and bool((gradient[masked] != 0).any()):
            largest = float(gradient[masked].abs().max())
            raise laws.broken(
                GRADIENTS, f"masked {name or 'input'} gets a gradient of {largest:.3g}", FILL_FIRST
            )


def _check_padding(laws: Laws, encoder: ModalityEncoder, tokens: Tokens, longer: Any, optional: bool) -> None:
    cause = "a length, mean or position that counts padding"
    with laws.holds(PADDING, cause):
        try:
            padded = encoder(longer)
        except ValueError:
            if optional:
                return  # a fixed number of elements
            raise
    laws.same_tokens(PADDING, tokens, padded, cause)


def _rows(tokens: Tokens, index: Tensor) -> Tokens:
    return Tokens(tokens.values[index], None if tokens.mask is None else tokens.mask[index])


def _check_refused(laws: Laws, encoder: ModalityEncoder, bad: Any) -> None:
    shapes = [tuple(tensor.shape) for tensor in tensors(bad).values()]
    cause = "forward() does not compare the shape of its input with what it expects"
    try:
        encoder(bad)
    except ValueError:
        return
    except Exception as error:
        raise laws.broken(REFUSES, f"{shapes} gave {type(error).__name__}: {error}", cause) from error
    raise laws.broken(REFUSES, f"{shapes} was accepted", cause)
