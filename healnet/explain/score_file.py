"""Write the scores of a modality that is read in pieces where they fit: into a file, block by block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from torch import Tensor

from healnet._evaluation import evaluating
from healnet.explain._blocks import by_element
from healnet.explain.attention_scores import block_scores, traces_for
from healnet.explain.gradients import block_gradients
from healnet.explain.risk import Risk
from healnet.fusion import AttentionTrace, HEALNet
from healnet.streams import Block, Stream
from healnet.training import TrainedModel

__all__ = ["ScoreMethod", "write_scores"]

ScoreMethod = Literal["mean", "rollout", "gradient", "gradient_x_input"]


def write_scores(
    model: HEALNet | TrainedModel,
    inputs: Mapping[str, Any],
    modality: str,
    out: Any,
    *,
    method: ScoreMethod = "mean",
    risk: Risk | None = None,
    patient: int = 0,
) -> Any:
    """Write a score of each of a patient's elements of a streamed modality, and return the model's output.

    The pieces are read once more than the model does to predict (and once more still per layer for the gradient methods).
    "mean" and "rollout" are relative to even attention: 1 is what every real element would have if all were attended alike.
    Elements in blocks that are masked throughout keep the value that `out` has, so fill it with NaN or zeros before.

    Args:
        model: Model to explain, in evaluation mode.
        inputs: Inputs of the model; `inputs[modality]` is a `Stream`.
        modality: Modality to write.
        out: Array of floats with the axes of the elements, that takes slices: a NumPy array, a memory map, a dataset of an
            HDF5 or Zarr file.
        method: "mean", "rollout" or "gradient" as in `attention_scores`; "gradient_x_input", summed over channels.
        risk: Function from the output to one number per patient, for the gradients; by default as `model.output` says.
        patient: Position of the patient in the batch.

    Raises:
        ValueError: Another method; an input that is no `Stream`, a patient without it, an `out` of another shape, an encoder
            whose tokens are no elements (`GridEncoder` with `patch` above 1); for the gradients, an output that is neither
            declared nor read by `risk`.
    """
    if method not in ("mean", "rollout", "gradient", "gradient_x_input"):
        raise ValueError(
            f"expected method 'mean', 'rollout', 'gradient' or 'gradient_x_input', got {method!r}"
        )
    stream = inputs.get(modality)
    if not isinstance(stream, Stream):
        raise ValueError(f"modality {modality!r}: expected a Stream, got {type(stream).__name__}")
    if not 0 <= patient < len(stream) or (pieces := stream.patients[patient]) is None:
        raise ValueError(f"modality {modality!r}: expected a patient who has it, got {patient}")
    if tuple(out.shape) != pieces.sizes:
        raise ValueError(
            f"modality {modality!r}: expected out of shape {pieces.sizes}, got {tuple(out.shape)}"
        )
    factor = float(pieces.real) if method in ("mean", "rollout") else 1.0
    with evaluating(model):
        kind = "gradient" if method == "gradient_x_input" else method
        output, traces, weight = traces_for(kind, model, inputs, risk)
        for block, scores in _block_scores(method, traces, modality, patient):
            out[block] = by_element(modality, block, scores * (factor * weight)).float().cpu().numpy()
    return output


def _block_scores(
    method: ScoreMethod, traces: Sequence[AttentionTrace], modality: str, patient: int
) -> Iterator[tuple[Block, Tensor]]:
    """The sums of the networks' scores of each block; all read the same blocks."""
    if method == "gradient_x_input":
        walks = [block_gradients(trace, modality, patient) for trace in traces]
    else:
        walks = [block_scores(method, trace, modality, patient) for trace in traces]
    for parts in zip(*walks, strict=True):
        block, first = parts[0]
        yield block, sum((scores for _, scores in parts[1:]), first)
