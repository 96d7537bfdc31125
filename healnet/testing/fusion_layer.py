"""Check a fusion layer against the laws that every fusion layer keeps: `check_fusion_layer`."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from healnet.fusion.layer import FusionLayer
from healnet.fusion.trace import TraceRecorder
from healnet.testing.law import Laws
from healnet.tokens import Tokens

__all__ = ["check_fusion_layer"]

RETURNS = "it returns latents of the shape it was given"
KEEPS_INPUT = "latents and tokens are not mutated"
REPEATS = "a second call gives the same"
TRACED = "recording a trace changes no number"
NOTHING = "a patient who has nothing is left as without tokens, and finite"
ALONE = "patients do not mix, and an absent modality changes nothing"
PADDING = "extra padding changes nothing"
ORDER = "the order of tokens changes nothing"
MASKED = "masked tokens change nothing, not even NaN"
GRADIENTS = "gradients are finite, and exactly zero for masked tokens"

IGNORES_MASK = (
    "the layer reads tokens.values without tokens.mask; tokens.standardized() has zeros where nothing is real"
)


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
        layer: Layer to check.
        latent_dim: Width d of its latents.
        token_dims: Width c of each modality's tokens.
        num_latents: Number of latents m to check with.
        num_tokens: Number of tokens n of the longest patient.
        seed: Seed of the random latents and tokens.

    Raises:
        LawBrokenError: a law does not hold, or anything else went wrong.
    """
    laws = Laws(f"fusion layer {type(layer).__name__}")
    layer = copy.deepcopy(layer).double().eval()
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    # Patient 0 has everything, 1 nothing, the others every second modality, with bags of different lengths.
    batch = 4
    latents = normal(batch, num_latents, latent_dim)
    tokens: dict[str, Tokens] = {}
    for number, (name, width) in enumerate(token_dims.items()):
        odd = number % 2
        lengths = torch.tensor([num_tokens, 0, num_tokens - 2 if odd else 0, 0 if odd else num_tokens - 1])
        tokens[name] = Tokens(normal(batch, num_tokens, width), torch.arange(num_tokens) < lengths[:, None])

    def run(law: str, changed: Mapping[str, Tokens], recorder: TraceRecorder | None = None) -> Tensor:
        # Nothing cached between calls.
        fresh = {name: Tokens(x.values, x.mask) for name, x in changed.items()}
        with laws.holds(law):
            return layer(latents, fresh, recorder)

    before, kept_latents = {name: x.values.clone() for name, x in tokens.items()}, latents.clone()
    with laws.holds(RETURNS, "forward() fails on latents (b, m, d) and a mapping of Tokens"):
        result = layer(latents, tokens, None)
    if not isinstance(result, Tensor) or result.shape != latents.shape:
        got = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
        raise laws.broken(RETURNS, f"expected {tuple(latents.shape)}, got {got}")
    laws.unchanged(f"{KEEPS_INPUT}: latents", kept_latents, latents, "an in-place operation on latents")
    for name, values in before.items():
        laws.unchanged(
            f"{KEEPS_INPUT}: modality {name!r}",
            values,
            tokens[name].values,
            "an in-place operation on tokens.values",
        )
    laws.same(
        REPEATS, result, run(REPEATS, tokens), "dropout or noise in evaluation mode, or a counter or cache"
    )
    laws.same(TRACED, result, run(TRACED, tokens, TraceRecorder()), "a branch on the recorder")
    with laws.holds(NOTHING):
        untouched = layer(latents[1:2], {}, None)
    laws.same(
        NOTHING,
        untouched,
        result[1:2],
        "the update of a modality is added also where tokens.present is False",
    )
    _check_alone(laws, layer, latents, tokens, result)
    order = torch.arange(num_tokens).flip(0).roll(2)  # no token stays in its place
    for name, x in tokens.items():
        mask = _mask(x)
        changes = {
            PADDING: Tokens(
                torch.cat((x.values, 100 * normal(batch, 3, x.values.shape[2])), dim=1),
                torch.cat((mask, torch.zeros(batch, 3, dtype=torch.bool)), dim=1),
            ),
            ORDER: Tokens(x.values[:, order], mask[:, order]),
            MASKED: Tokens(x.values.masked_fill(~mask.unsqueeze(-1), torch.nan), mask),
        }
        causes = {
            PADDING: "a length or mean that counts padding",
            ORDER: "the layer reads tokens by their number; positions belong into the tokens",
            MASKED: IGNORES_MASK,
        }
        for law, changed in changes.items():
            named = f"modality {name!r}: {law}"
            laws.same(named, result, run(named, {**tokens, name: changed}), causes[law])
    _check_gradients(laws, layer, latents, tokens)


def _check_alone(
    laws: Laws, layer: FusionLayer, latents: Tensor, tokens: Mapping[str, Tokens], result: Tensor
) -> None:
    """Each patient by itself, without padding and without the modalities that it lacks."""
    for row in range(len(latents)):
        index = torch.tensor([row])
        own = {name: x for name, x in tokens.items() if bool(_mask(x)[row].any())}
        lacks = [name for name in tokens if name not in own]
        law = (
            f"{ALONE}: patient {row}, who has {list(own)} and lacks {lacks}, alone gives what the batch gives"
        )
        with laws.holds(law):
            alone = layer(
                latents[index],
                {name: Tokens(x.values[index][:, _mask(x)[row]]) for name, x in own.items()},
                None,
            )
        laws.same(law, result[index], alone, f"a statistic over the batch, or {IGNORES_MASK}")


def _check_gradients(laws: Laws, layer: FusionLayer, latents: Tensor, tokens: Mapping[str, Tokens]) -> None:
    latents = latents.clone().requires_grad_()
    leaves = {name: Tokens(x.values.clone().requires_grad_(), x.mask) for name, x in tokens.items()}
    wanted = {"latents": latents} | {f"modality {name!r}": x.values for name, x in leaves.items()}
    wanted |= {name: parameter for name, parameter in layer.named_parameters() if parameter.requires_grad}
    with laws.holds(GRADIENTS):
        result = layer(latents, leaves, None)
        weights = torch.linspace(-1, 1, result.numel(), dtype=torch.float64).view_as(result)
        gradients = torch.autograd.grad((result * weights).sum(), list(wanted.values()), allow_unused=True)
    found = dict(zip(wanted, gradients, strict=True))
    for name, gradient in found.items():
        if gradient is not None and not bool(torch.isfinite(gradient).all()):
            cause = "a division by the number of real tokens, or a norm, where there are none"
            raise laws.broken(GRADIENTS, f"the gradient of {name} is not finite", cause)
    for name, x in leaves.items():
        gradient = found[f"modality {name!r}"]
        if gradient is not None and bool((gradient[~_mask(x)] != 0).any()):
            largest = float(gradient[~_mask(x)].abs().max())
            finding = f"masked tokens get a gradient of {largest:.3g}"
            raise laws.broken(f"modality {name!r}: {GRADIENTS}", finding, IGNORES_MASK)


def _mask(tokens: Tokens) -> Tensor:
    if tokens.mask is None:
        return torch.ones(tokens.values.shape[:2], dtype=torch.bool)
    return tokens.mask
