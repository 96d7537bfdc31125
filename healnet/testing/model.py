"""Check a whole model against the laws, for the input types of its own encoders: `check_model`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from healnet.encoders.base import ModalityEncoder
from healnet.inputs import hide, take
from healnet.testing.encoder import check_encoder
from healnet.testing.law import Laws, tensors
from healnet.testing.masked_examples import as_double, example_size

__all__ = ["check_model"]

FINITE = "the output is finite under every pattern of absence"
KEEPS_INPUT = "inputs are not mutated"
REPEATS = "a second call gives the same"
TRACED = "tracing changes no number"
ALONE = "patients do not mix"
UNTOUCHED = "with nothing at all, the head reads the untouched latents"
ABSENT = "all masked equals leaving it out"
GRADIENTS = "gradients are finite under every pattern of absence"


def check_model(model: nn.Module, inputs: Mapping[str, Any], *, seed: int = 0) -> None:
    """Check a whole model against the laws: each encoder by `check_encoder`, then all together.

    The output may be a tensor, or a tuple or mapping of tensors, each with the patients first.

    Args:
        model: Model to check: `HEALNet`, or any that takes the same inputs. Its `encoders`, a mapping from modality, and its
            `trace` are checked where it has them.
        inputs: Example batch of at least two patients, with every modality, finite, floating point.
        seed: Seed of the random pattern of absence.

    Raises:
        LawBrokenError: a law does not hold, or anything else went wrong.
        ValueError: An example that cannot serve.
    """
    laws = Laws(f"model {type(model).__name__}")
    model = copy.deepcopy(model).double().eval()
    inputs = {name: as_double(value) for name, value in inputs.items()}
    sizes = {name: example_size(value) for name, value in inputs.items()}
    encoders = getattr(model, "encoders", None)
    modalities = list(inputs) if encoders is None else list(encoders)
    if len(set(sizes.values())) != 1 or set(sizes) != set(modalities):
        raise ValueError(
            f"expected an example with one batch of each modality {modalities}, got batch sizes {sizes}"
        )
    for name, encoder in ({} if encoders is None else encoders).items():
        assert isinstance(encoder, ModalityEncoder)
        check_encoder(encoder, inputs[name], modality=name, seed=seed)
    names, batch = list(inputs), next(iter(sizes.values()))
    generator = torch.Generator().manual_seed(seed)
    absent = torch.rand(batch, len(names), generator=generator) < 0.5
    absent[0], absent[-1] = True, False
    everyone = torch.ones(batch, dtype=torch.bool)
    hidden = {name: hide(inputs[name], absent[:, i]) for i, name in enumerate(names)}
    before = copy.deepcopy(hidden)
    with laws.holds(FINITE):
        result = model(hidden)
    for part, tensor in tensors(result).items():
        if not bool(torch.isfinite(tensor).all()):
            raise laws.broken(
                FINITE, f"{part or 'the output'} is not finite", "a division by zero, in a layer or the head"
            )
        if tensor.dim() == 0 or len(tensor) != batch:
            shape = tuple(tensor.shape)
            raise laws.broken(
                ALONE,
                f"expected {part or 'the output'} of {batch} patients, got a shape of {shape}",
                "the head",
            )
    if not tensors(result):
        raise laws.broken(FINITE, f"expected tensors from the head, got {type(result).__name__}")
    laws.unchanged(KEEPS_INPUT, before, hidden, "an in-place operation; work on a copy")
    with laws.holds(REPEATS):
        again = model(hidden)
    laws.same(REPEATS, result, again, "dropout or noise in evaluation mode, or a counter or cache")
    trace = getattr(model, "trace", None)
    if trace is not None:  # models of other designs need not have one
        with laws.holds(TRACED):
            traced = trace(hidden)[0]
        laws.same(TRACED, result, traced, "a branch on the recorder in a fusion layer")
    for row in range(batch):
        index = torch.tensor([row])
        own = {name: take(inputs[name], index) for i, name in enumerate(names) if not absent[row, i]}
        law = f"{ALONE}: patient {row}, who has {list(own)}, alone gives what the batch gives"
        with laws.holds(law):
            alone = model(own)
        whole = {part: tensor[index] for part, tensor in tensors(result).items()}
        laws.same(law, whole, tensors(alone), "a statistic over the batch in a fusion layer or the head")
    with laws.holds(UNTOUCHED):
        nothing = tensors(model({}))
        untouched = model({name: hide(value, everyone) for name, value in inputs.items()})
    expected = {part: tensor.expand(batch, *tensor.shape[1:]) for part, tensor in nothing.items()}
    laws.same(
        UNTOUCHED, expected, tensors(untouched), "a fusion layer updates patients whose tokens are all masked"
    )
    for name in names:
        law = f"modality {name!r}: {ABSENT}"
        rest = {other: value for other, value in inputs.items() if other != name}
        with laws.holds(law):
            masked = model({**rest, name: hide(inputs[name], everyone)})
            left_out = model(rest) if rest else untouched
        laws.same(law, left_out, masked, "a fusion layer updates patients whose tokens are all masked")
    _check_gradients(laws, model, hidden)


def _check_gradients(laws: Laws, model: nn.Module, hidden: Mapping[str, Any]) -> None:
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    with laws.holds(GRADIENTS):
        total = torch.zeros((), dtype=torch.float64)
        for tensor in tensors(model(hidden)).values():
            if tensor.requires_grad:
                total = total + (tensor * torch.linspace(-1, 1, tensor.numel()).view_as(tensor)).sum()
        if not total.requires_grad:
            return
        gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    for name, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None and not bool(torch.isfinite(gradient).all()):
            raise laws.broken(
                GRADIENTS, f"the gradient of {name} is not finite", "a division by zero behind a mask"
            )
