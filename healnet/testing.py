"""The laws of the library as checks: run them on an encoder, a fusion layer or a model of your own, one line each.

    from healnet.testing import check_encoder, check_fusion_layer, check_model
    check_encoder(MyEncoder(), inputs)
    check_fusion_layer(MyLayer(latent_dim=16, token_dims={"rna": 8, "slide": 12}), 16, {"rna": 8, "slide": 12})

Each check works on a float64 copy of the module in evaluation mode, so yours is left as it was, and raises `LawBrokenError`
with the law, the modality or the patient, and the size of the difference.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from healnet.encoders.base import ModalityEncoder
from healnet.fusion.layer import FusionLayer
from healnet.fusion.model import HEALNet
from healnet.fusion.trace import TraceRecorder
from healnet.inputs import PatchBag, broadcast_mask, hide, map_tensors, take
from healnet.tokens import Tokens

__all__ = [
    "LawBrokenError",
    "check_encoder",
    "check_fusion_layer",
    "check_model",
]

TOLERANCE = 1e-10  # float64


class LawBrokenError(AssertionError):
    """A law of the library does not hold; the message says which and by how much."""


def check_encoder(
    encoder: ModalityEncoder,
    inputs: Any,
    *,
    pad: Callable[[Any], Any] | None = None,
    wrong: Sequence[Any] | None = None,
) -> None:
    """Check an encoder against the laws that every encoder keeps.

    Args:
        encoder: what to check.
        inputs: an example batch of at least two patients, finite, floating point.
        pad: returns the same input with more padding; known for `PatchBag`, otherwise padding is checked only if given.
        wrong: inputs that must be refused with a ValueError (default: the example with one axis too many).

    Raises:
        LawBrokenError: a law does not hold.
        ValueError: an example that cannot serve: one patient only, or non-finite values.
    """
    encoder = copy.deepcopy(encoder).double().eval()
    inputs = _double(inputs)
    batch = _batch_size(inputs)
    _require_finite(inputs)
    before = copy.deepcopy(inputs)
    tokens = encoder(inputs)
    if not isinstance(tokens, Tokens):
        raise LawBrokenError(f"an encoder returns Tokens, got {type(tokens).__name__}")
    if tokens.values.shape[0] != batch or tokens.values.shape[2] != encoder.token_dim:
        raise LawBrokenError(
            f"an encoder returns tokens of shape ({batch}, n, {encoder.token_dim}), its token_dim last; "
            f"got {tuple(tokens.values.shape)}"
        )
    _same_tree("the input is not mutated", before, inputs)
    _same_tokens("a second call gives the same", tokens, encoder(inputs))
    for row in range(batch):
        index = torch.tensor([row])
        _same_tokens(
            f"patients do not mix: patient {row} alone gives what the batch gives",
            _take_tokens(tokens, index),
            encoder(take(inputs, index)),
        )
    poisoned = map_tensors(lambda tensor, _: _poison(tensor, _masked_elements(inputs, tensor)), inputs)
    _same_tokens("what is masked changes nothing, not even NaN", tokens, encoder(poisoned))
    _check_hidden_patients(encoder, inputs, tokens)
    pad = _pad_bag if pad is None and isinstance(inputs, PatchBag) else pad
    if pad is not None:
        _same_tokens("padding changes nothing", tokens, encoder(pad(inputs)))
    wrong = [map_tensors(_extra_axis, inputs)] if wrong is None else wrong
    for bad in wrong:
        _check_refused(encoder, bad)


def check_fusion_layer(
    layer: FusionLayer,
    latent_dim: int,
    token_dims: Mapping[str, int],
    *,
    num_latents: int = 5,
    num_tokens: int = 7,
    seed: int = 0,
) -> None:
    """Check a fusion layer against the laws that every fusion layer keeps, on random latents and tokens.

    Args:
        layer: what to check.
        latent_dim: width d of its latents.
        token_dims: width c of each modality's tokens.
        num_latents: latents m to check with.
        num_tokens: tokens n of the longest patient.
        seed: of the random latents and tokens.

    Raises:
        LawBrokenError: a law does not hold.
    """
    layer = copy.deepcopy(layer).double().eval()
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    # Patient 0 has everything, 1 nothing, the others every second modality, with bags of different lengths.
    batch = 4
    latents = normal(batch, num_latents, latent_dim)
    tokens: dict[str, Tokens] = {}
    for number, (name, width) in enumerate(token_dims.items()):
        lengths = torch.tensor(
            [num_tokens, 0, num_tokens - 2 if number % 2 else 0, 0 if number % 2 else num_tokens - 1]
        )
        mask = torch.arange(num_tokens) < lengths[:, None]
        tokens[name] = Tokens(normal(batch, num_tokens, width), mask)

    def run(rows: Tensor, tokens: Mapping[str, Tokens], recorder: TraceRecorder | None = None) -> Tensor:
        fresh = {name: Tokens(x.values, x.mask) for name, x in tokens.items()}  # nothing cached between calls
        return layer(latents[rows], fresh, recorder)

    everyone = torch.arange(batch)
    before = {name: x.values.clone() for name, x in tokens.items()}
    kept_latents = latents.clone()
    result = layer(latents, tokens, None)
    if result.shape != latents.shape:
        raise LawBrokenError(
            f"a fusion layer keeps the latents' shape {tuple(latents.shape)}, got {tuple(result.shape)}"
        )
    _same("latents are not mutated", kept_latents, latents)
    for name, values in before.items():
        _same(f"tokens of {name!r} are not mutated", values, tokens[name].values)
    _same("a second call gives the same", result, run(everyone, tokens))
    _same("recording a trace changes no number", result, run(everyone, tokens, TraceRecorder()))
    _same(
        "nothing present at all: as without tokens, and finite",
        result[1:2],
        layer(latents[1:2], {}, None),
    )
    for row in range(batch):
        index = everyone[row : row + 1]
        alone = {
            name: Tokens(x.values[index][:, x.mask[row]], None)
            for name, x in tokens.items()
            if x.mask is not None and bool(x.mask[row].any())
        }
        _same(
            f"patients do not mix and padding changes nothing: patient {row} alone, absent modalities left out",
            result[index],
            run(index, alone),
        )
    longer = {
        name: Tokens(torch.cat((x.values, 100 * normal(batch, 3, x.values.shape[2])), 1), _extend(x.mask, 3))
        for name, x in tokens.items()
    }
    _same("extra padding changes nothing", result, run(everyone, longer))
    order = torch.randperm(num_tokens, generator=generator)
    shuffled = {
        name: Tokens(x.values[:, order], None if x.mask is None else x.mask[:, order])
        for name, x in tokens.items()
    }
    _same("the order of tokens changes nothing", result, run(everyone, shuffled))
    poisoned = {
        name: Tokens(x.values.masked_fill(~_mask(x).unsqueeze(-1), float("nan")), x.mask)
        for name, x in tokens.items()
    }
    _same("masked tokens do not leak, not even NaN", result, run(everyone, poisoned))
    _check_layer_gradients(layer, latents, poisoned)


def check_model(model: nn.Module, inputs: Mapping[str, Any], *, seed: int = 0) -> None:
    """Check a whole model against the laws, for the input types of its own encoders.

    Args:
        model: what to check: a `HEALNet`, or any module that takes its mapping of inputs.
        inputs: an example batch of at least two patients, with every modality, finite, floating point.
        seed: of the random pattern of absence.

    Raises:
        LawBrokenError: a law does not hold.
        ValueError: an example that cannot serve.
    """
    model = copy.deepcopy(model).double().eval()
    inputs = {name: _double(value) for name, value in inputs.items()}
    batch = _batch_size(inputs)
    _require_finite(inputs)
    names = list(inputs)
    generator = torch.Generator().manual_seed(seed)
    absent = torch.rand(batch, len(names), generator=generator) < 0.5
    absent[0], absent[-1] = True, False
    nobody = torch.ones(batch, dtype=torch.bool)
    hidden = {name: hide(inputs[name], absent[:, i]) for i, name in enumerate(names)}
    before = copy.deepcopy(hidden)
    result = model(hidden)
    if not bool(torch.isfinite(result).all()):
        raise LawBrokenError("the output is finite under every pattern of absence")
    _same_tree("inputs are not mutated", before, hidden)
    _same("a second call gives the same", result, model(hidden))
    if isinstance(model, HEALNet):
        _same("tracing changes no number", result, model.trace(hidden)[0])
    for row in range(batch):
        index = torch.tensor([row])
        alone = {name: take(inputs[name], index) for i, name in enumerate(names) if not absent[row, i]}
        _same(f"patient {row} alone gives what the batch gives", result[index], model(alone))
    untouched = model({name: hide(value, nobody) for name, value in inputs.items()})
    _same(
        "with nothing at all, the head reads the untouched latents", untouched, model({}).expand_as(untouched)
    )
    for name in names:
        rest = {other: value for other, value in inputs.items() if other != name}
        _same(
            f"modality {name!r} all masked equals leaving it out",
            model({**rest, name: hide(inputs[name], nobody)}),
            model(rest) if rest else untouched,
        )
    _check_model_gradients(model, hidden)


def _check_hidden_patients(encoder: ModalityEncoder, inputs: Any, tokens: Tokens) -> None:
    batch = _batch_size(inputs)
    rows = torch.zeros(batch, dtype=torch.bool)
    rows[0] = True
    hidden = hide(inputs, rows)
    encoded = encoder(
        map_tensors(lambda tensor, _: _poison(tensor, broadcast_mask(rows, tensor.shape)), hidden)
    )
    if encoded.mask is None or bool(encoded.mask[0].any()):
        raise LawBrokenError("a patient whose input is all masked has no real token")
    others = torch.arange(1, batch)
    _same_tokens(
        "hiding a patient changes nothing for the others",
        _take_tokens(tokens, others),
        _take_tokens(encoded, others),
    )
    # Finite again: some functions stop the gradient of a NaN, and would hide a leak.
    leaves = [tensor.requires_grad_() for tensor, _ in _leaves(hidden) if tensor.is_floating_point()]
    masked = [broadcast_mask(rows, leaf.shape) | _masked_elements(hidden, leaf) for leaf in leaves]
    encoded = encoder(hidden)
    if not encoded.values.requires_grad:
        return
    weights = torch.linspace(-1, 1, encoded.values.numel(), dtype=torch.float64).view_as(encoded.values)
    real = encoded.values.masked_fill(~_mask(encoded).unsqueeze(-1), 0)
    gradients = torch.autograd.grad((real * weights).sum(), leaves, allow_unused=True)
    for gradient, elements in zip(gradients, masked, strict=True):
        if gradient is not None and not (
            bool(torch.isfinite(gradient).all()) and bool((gradient[elements] == 0).all())
        ):
            raise LawBrokenError("gradients are finite, and exactly zero for what was masked")


def _check_refused(encoder: ModalityEncoder, bad: Any) -> None:
    shapes = [tuple(tensor.shape) for tensor, _ in _leaves(bad)]
    try:
        encoder(bad)
    except ValueError:
        return
    except (RuntimeError, IndexError, TypeError) as error:
        raise LawBrokenError(
            f"a wrong shape {shapes} is refused with a ValueError, got {type(error).__name__}: {error}"
        ) from error
    raise LawBrokenError(f"a wrong shape {shapes} is refused with a ValueError, but was accepted")


def _check_layer_gradients(layer: FusionLayer, latents: Tensor, tokens: Mapping[str, Tokens]) -> None:
    latents = latents.clone().requires_grad_()
    leaves = {
        name: Tokens(x.values.nan_to_num(0).clone().requires_grad_(), x.mask) for name, x in tokens.items()
    }
    result = layer(latents, leaves, None)
    weights = torch.linspace(-1, 1, result.numel(), dtype=torch.float64).view_as(result)
    wanted = [latents, *(x.values for x in leaves.values())]
    wanted += [parameter for parameter in layer.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad((result * weights).sum(), wanted, allow_unused=True)
    if not all(gradient is None or bool(torch.isfinite(gradient).all()) for gradient in gradients):
        raise LawBrokenError("gradients are finite under every pattern of absence")
    for (name, x), gradient in zip(leaves.items(), gradients[1:], strict=False):
        if gradient is not None and bool((gradient[~_mask(x)] != 0).any()):
            raise LawBrokenError(f"masked tokens of {name!r} get a gradient of exactly zero")


def _check_model_gradients(model: nn.Module, hidden: Mapping[str, Any]) -> None:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    result = model(hidden)
    weights = torch.linspace(-1, 1, result.numel(), dtype=torch.float64).view_as(result)
    for gradient in torch.autograd.grad((result * weights).sum(), parameters, allow_unused=True):
        if gradient is not None and not bool(torch.isfinite(gradient).all()):
            raise LawBrokenError("gradients are finite under every pattern of absence")


def _is_mask(tensor: Tensor, name: str) -> bool:
    return tensor.dtype == torch.bool and (name == "mask" or name.endswith("_mask"))


def _leaves(inputs: Any) -> list[tuple[Tensor, str]]:
    found: list[tuple[Tensor, str]] = []

    def collect(tensor: Tensor, name: str) -> Tensor:
        found.append((tensor, name))
        return tensor

    map_tensors(collect, inputs)
    return found


def _double(inputs: Any) -> Any:
    return map_tensors(
        lambda tensor, _: tensor.double() if tensor.is_floating_point() else tensor.clone(), inputs
    )


def _masked_elements(inputs: Any, tensor: Tensor) -> Tensor:
    """Which elements of one field are masked: those under the `mask` of the input, where it fits the field's first axes."""
    mask = getattr(inputs, "mask", None)
    if mask is None or tensor.shape[: mask.dim()] != mask.shape:
        return torch.zeros(tensor.shape, dtype=torch.bool)
    return broadcast_mask(~mask, tensor.shape)


def _poison(tensor: Tensor, elements: Tensor) -> Tensor:
    """NaN where nothing is real: what is masked must not matter."""
    return tensor.masked_fill(elements, float("nan")) if tensor.is_floating_point() else tensor


def _extra_axis(tensor: Tensor, name: str) -> Tensor:
    return tensor if _is_mask(tensor, name) else tensor.unsqueeze(-1)


def _pad_bag(bag: PatchBag) -> PatchBag:
    def longer(tensor: Tensor, name: str) -> Tensor:
        extra = tensor[:, :1].expand(-1, 3, *[-1] * (tensor.dim() - 2))
        return torch.cat((tensor, torch.zeros_like(extra) if _is_mask(tensor, name) else 7 * extra), dim=1)

    padded: PatchBag = map_tensors(longer, bag)
    return padded


def _batch_size(inputs: Any) -> int:
    sizes = {len(tensor) for tensor, _ in _leaves(inputs)}
    if len(sizes) != 1 or min(sizes) < 2:
        raise ValueError(
            f"expected an example batch of at least two patients, got batch sizes {sorted(sizes)}"
        )
    return sizes.pop()


def _require_finite(inputs: Any) -> None:
    for tensor, name in _leaves(inputs):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ValueError(
                f"expected finite example inputs, got NaN or infinity in {name or 'the tensor'!r}"
            )


def _mask(tokens: Tokens) -> Tensor:
    if tokens.mask is None:
        return torch.ones(tokens.values.shape[:2], dtype=torch.bool)
    return tokens.mask


def _extend(mask: Tensor | None, extra: int) -> Tensor:
    assert mask is not None
    return torch.cat((mask, torch.zeros(len(mask), extra, dtype=torch.bool)), dim=1)


def _take_tokens(tokens: Tokens, index: Tensor) -> Tokens:
    return Tokens(tokens.values[index], None if tokens.mask is None else tokens.mask[index])


def _same(law: str, expected: Tensor, got: Tensor) -> None:
    if expected.shape != got.shape:
        raise LawBrokenError(f"{law}: expected shape {tuple(expected.shape)}, got {tuple(got.shape)}")
    if not expected.numel():
        return
    difference = float((expected - got).detach().abs().max())
    if not difference <= TOLERANCE * max(1.0, float(expected.detach().abs().max())):
        raise LawBrokenError(f"{law}: the largest difference is {difference:.3g}")


def _same_tokens(law: str, expected: Tokens, got: Tokens) -> None:
    """Equal real tokens of each patient, in order; padding may differ."""
    for row in range(len(expected.values)):
        _same(law, expected.values[row][_mask(expected)[row]], got.values[row][_mask(got)[row]])


def _same_tree(law: str, before: Any, after: Any) -> None:
    for (old, name), (new, _) in zip(_leaves(before), _leaves(after), strict=True):
        if not torch.equal(old, new):
            raise LawBrokenError(f"{law}: {name or 'the tensor'} changed")
