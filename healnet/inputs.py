"""Input types of a model, and the operations that every subpackage needs on them.

A modality of one batch is a plain tensor, or a NamedTuple of tensors whose masks say what is real, so that PyTorch's default
collation, pinning and scattering over devices work. Besides the four types here, any NamedTuple of tensors with a bool field
`mask` is an input, and the functions below work on it.

Everywhere a mask is boolean and **True means real**: padding and absence are the same thing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from healnet.streams import Stream

__all__ = [
    "Graph",
    "Hidden",
    "Masked",
    "PatchBag",
    "TimeSeries",
    "batch_size",
    "broadcast_mask",
    "element_mask",
    "hide",
    "map_tensors",
    "move",
    "present",
    "real_elements",
    "repeat",
    "take",
    "unmask",
    "values_field",
    "values_of",
    "with_mask",
    "with_values",
]


class Masked(NamedTuple):
    """A plain tensor with absence beside it, for any modality that is one tensor per patient.

    A NamedTuple of tensors, so that PyTorch's default collation, pinning and scattering over devices work.

    Shape:
        values: (b, *axes) or (b, *axes, c), as the modality's encoder takes it.
        mask: bool, True = real. (b,) says who has the modality at all; (b, *axes) says which elements are real.

    Example:
        >>> rna = Masked(torch.zeros(2, 3), torch.tensor([True, False]))  # the second patient has no RNA
        >>> rna.mask.tolist()
        [True, False]
    """

    values: Tensor
    mask: Tensor

    def to(self, *args: Any, **kwargs: Any) -> Masked:
        """Move as `Tensor.to` does; a dtype applies to the values, never to the mask."""
        moved: Masked = _to(self, ("values",), *args, **kwargs)
        return moved


class Hidden(NamedTuple):
    """`Masked` of which elements were hidden, and which were real before: a scan keeps its extent without its last row.

    Made by `hide`, for images and volumes, whose elements get their places from the extent.

    Shape:
        values, mask: as those of `Masked`.
        extent: (b, *axes) bool, True = real before anything was hidden.
    """

    values: Tensor
    mask: Tensor
    extent: Tensor


class PatchBag(NamedTuple):
    """Patch features of one batch of patients, ragged bags padded to the longest.

    Shape:
        features: (b, n, c) float of any precision.
        coords: (b, n, 2) the (x, y) of each patch's top-left corner, or (b, n, 3) with the slide's index last.
        mask: (b, n) bool, True = a real patch. A patient without slides is a row of all False.
    """

    features: Tensor
    coords: Tensor
    mask: Tensor

    def to(self, *args: Any, **kwargs: Any) -> PatchBag:
        """Move as `Tensor.to` does; a dtype applies to the features alone: level-0 coordinates overflow float16."""
        moved: PatchBag = _to(self, ("features",), *args, **kwargs)
        return moved


class TimeSeries(NamedTuple):
    """Measurements at irregular times, short series padded to the longest of the batch.

    Shape:
        values: (b, t, c) float.
        times: (b, t) when each step was measured, in any one unit.
        mask: bool, True = measured. (b, t, c) says which values of a step are real, (b, t) which steps are.
    """

    values: Tensor
    times: Tensor
    mask: Tensor

    def to(self, *args: Any, **kwargs: Any) -> TimeSeries:
        """Move as `Tensor.to` does; a dtype applies to the values alone: a half-precision clock loses the hours."""
        moved: TimeSeries = _to(self, ("values",), *args, **kwargs)
        return moved


class Graph(NamedTuple):
    """One graph per patient, smaller ones padded to the largest of the batch. `Graph.of` makes one, `stack` a batch.

    Shape:
        nodes: (b, n, c) float, features of the nodes.
        edge_index: (b, 2, e) integer, the two ends of each edge, numbered within the graph (PyTorch Geometric's layout).
        mask: (b, n) bool, True = a real node. A patient without a graph is a row of all False.
        edge_mask: (b, e) bool, True = a real edge.
        edges: (b, e, w) float, features of the edges; w = 0 where they have none.
        centroids: (b, n, a) places of the nodes; a = 0 where they have none.
    """

    nodes: Tensor
    edge_index: Tensor
    mask: Tensor
    edge_mask: Tensor
    edges: Tensor
    centroids: Tensor

    @staticmethod
    def ragged() -> tuple[str, ...]:
        """Fields that `healnet.data.collate` may pad along every axis."""
        return ("edge_index",)

    @classmethod
    def of(
        cls, nodes: Tensor, edge_index: Tensor, edges: Tensor | None = None, centroids: Tensor | None = None
    ) -> Graph:
        """The graph of one patient, without the axis b: nodes (n, c), edge_index (2, e), edges (e, w), centroids (n, a).

        Example:
            >>> path = Graph.of(torch.zeros(3, 5), torch.tensor([[0, 1], [1, 2]]))
            >>> lonely = Graph.of(torch.zeros(1, 5), torch.empty(2, 0, dtype=torch.long))
            >>> Graph.stack([path, lonely]).mask.tolist()
            [[True, True, True], [True, False, False]]
        """
        n, e = len(nodes), edge_index.shape[-1]
        return cls(
            nodes,
            edge_index,
            torch.ones(n, dtype=torch.bool, device=nodes.device),
            torch.ones(e, dtype=torch.bool, device=nodes.device),
            nodes.new_zeros(e, 0) if edges is None else edges,
            nodes.new_zeros(n, 0) if centroids is None else centroids,
        )

    @classmethod
    def stack(cls, graphs: Sequence[Graph]) -> Graph:
        """Graphs of single patients into one batch, padded at the end."""
        # Every field by its first axis, which edge_index has second.
        rows = [graph._replace(edge_index=graph.edge_index.T) for graph in graphs]
        batch = cls(*(pad_sequence(list(field), batch_first=True) for field in zip(*rows, strict=True)))
        return batch._replace(edge_index=batch.edge_index.transpose(1, 2).contiguous())

    def to(self, *args: Any, **kwargs: Any) -> Graph:
        """Move as `Tensor.to` does; a dtype applies to the features of nodes and edges alone."""
        moved: Graph = _to(self, ("nodes", "edges"), *args, **kwargs)
        return moved

    def with_mask(self, mask: Tensor) -> Graph:
        """The graph with these nodes (b, n): an edge goes when one of its ends does.

        Example:
            >>> path = Graph.stack([Graph.of(torch.zeros(3, 5), torch.tensor([[0, 1], [1, 2]]))])
            >>> path.with_mask(torch.tensor([[True, True, False]])).edge_mask.tolist()
            [[True, False]]
        """
        ends = self.edge_index.long().masked_fill(~self.edge_mask.unsqueeze(1), 0).flatten(1)
        both = mask.gather(1, ends).reshape(self.edge_index.shape).all(dim=1)
        return self._replace(mask=mask, edge_mask=self.edge_mask & both)


def map_tensors(function: Callable[[Tensor, str], Tensor], value: Any, name: str = "") -> Any:
    """The same input with `function(tensor, field)` in the place of each of its tensors.

    Args:
        function: Function called with every tensor and the name of its field ("" for a plain tensor).
        value: Tensor, NamedTuple, tuple, list or mapping, nested to any depth; anything else stays as it is.
        name: Field name of a plain tensor.
    """
    if isinstance(value, Tensor):
        return function(value, name)
    if isinstance(value, Mapping):
        return {key: map_tensors(function, part, key) for key, part in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        parts = zip(value, value._fields, strict=True)
        return type(value)(*[map_tensors(function, part, field) for part, field in parts])
    if type(value) in (tuple, list):
        return type(value)(map_tensors(function, part) for part in value)
    return value


def take(value: Any, index: Tensor) -> Any:
    """The patients `index` (positions or a bool mask) of one modality's input.

    Example:
        >>> take(Masked(torch.eye(3), torch.ones(3, dtype=torch.bool)), torch.tensor([2])).values
        tensor([[0., 0., 1.]])
    """
    if isinstance(value, Stream):
        return value.take(index)
    return map_tensors(lambda tensor, _: tensor[index], value)


def repeat(value: Any, times: int) -> Any:
    """The whole batch `times` times over: patients 0, 1, ..., 0, 1, ..."""
    if times == 1:
        return value
    if isinstance(value, Stream):
        return value.repeat(times)
    return map_tensors(lambda tensor, _: tensor.repeat(times, *[1] * (tensor.dim() - 1)), value)


def move(value: Any, device: torch.device | str, non_blocking: bool = False) -> Any:
    """The same input on another device; types of numbers are kept."""
    if isinstance(value, Stream):
        return value.to(device)
    return map_tensors(lambda tensor, _: tensor.to(device, non_blocking=non_blocking), value)


def present(value: Any) -> Tensor:
    """(b,) bool: which patients have any of this modality.

    Raises:
        ValueError: Neither a tensor nor a NamedTuple with a mask.

    Example:
        >>> present(Masked(torch.zeros(2, 2), torch.tensor([[True, False], [False, False]]))).tolist()
        [True, False]
    """
    if isinstance(value, Tensor):
        return torch.ones(len(value), dtype=torch.bool, device=value.device)
    if isinstance(value, Stream):
        return value.present
    mask = _mask_of(value)
    return mask if mask.dim() == 1 else mask.flatten(1).any(dim=1)


def hide(value: Any, where: Tensor) -> Any:
    """The input without what `where` marks. Values stay as they are; only masks change, and a tensor becomes `Masked`.

    An image or volume without some of its elements becomes `Hidden`, by which the others keep their places.

    Args:
        value: Tensor, or a NamedTuple with a mask.
        where: Mask, True = hide: (b,) for whole patients, (b, *axes) for elements, or (1, *axes) for the same of all.

    Raises:
        ValueError: An input that cannot be masked.

    Example:
        >>> hide(torch.zeros(3, 5), torch.tensor([True, False, False])).mask.tolist()
        [False, True, True]
    """
    if isinstance(value, Stream):
        return value.hide(where)
    if isinstance(value, Tensor):
        value = Masked(value, torch.ones(len(value), dtype=torch.bool, device=value.device))
    mask = _mask_of(value)
    axes = max(mask.dim(), where.dim())
    before = _trailing(mask, axes)
    shown = before & ~_trailing(where.to(mask.device), axes)
    if isinstance(value, Masked) and value.values.dim() > 2 and where.dim() > 1:
        return Hidden(value.values, shown, before.expand_as(shown))
    return with_mask(value, shown)


def with_mask(value: Any, mask: Tensor) -> Any:
    """The same input with another mask. A type whose other fields depend on the mask brings its own `with_mask`."""
    own = getattr(value, "with_mask", None)
    return value._replace(mask=mask) if own is None else own(mask)


def values_field(value: Any) -> str | None:
    """The field of a NamedTuple that holds its numbers: the first floating-point one. None for a tensor.

    Raises:
        ValueError: Neither a tensor nor a NamedTuple with such a field.
    """
    if isinstance(value, Tensor):
        return None
    for name in getattr(value, "_fields", ()):
        field = getattr(value, name)
        if isinstance(field, Tensor) and field.is_floating_point():
            return str(name)
    raise ValueError(f"expected a tensor or a NamedTuple of tensors, got {type(value).__name__}")


def values_of(value: Any) -> Tensor:
    """The numbers of an input: a tensor itself, or the first floating-point field."""
    field = values_field(value)
    numbers: Tensor = value if field is None else getattr(value, field)
    return numbers


def with_values(value: Any, values: Tensor) -> Any:
    """The same input with other numbers."""
    field = values_field(value)
    return values if field is None else value._replace(**{field: values})


def real_elements(value: Any) -> Tensor:
    """(b, *axes) bool: which elements are real; the axes of the mask, else those of the values without their channels.

    A plain (b, f) tensor is taken for a table, whose elements are its features.
    """
    if isinstance(value, Stream):
        return value.real
    values, mask = values_of(value), getattr(value, "mask", None)
    if mask is not None and mask.dim() > 1:
        return mask
    shape = values.shape if values.dim() <= 2 else values.shape[:-1]
    if mask is None:
        return torch.ones(shape, dtype=torch.bool, device=values.device)
    return broadcast_mask(mask, shape)


def batch_size(inputs: Mapping[str, Any]) -> int:
    """Number of patients in the inputs of a model.

    Raises:
        ValueError: No modality at all.
    """
    for value in inputs.values():
        if value is not None:
            return len(value) if isinstance(value, Stream) else len(values_of(value))
    raise ValueError("expected inputs with at least one modality, got none")


def unmask(value: Tensor | Masked | Hidden) -> tuple[Tensor, Tensor | None]:
    """The values and the mask of a plain tensor (no mask: all present) or of `Masked`.

    Raises:
        ValueError: Anything else, or a mask that is not boolean.
    """
    if isinstance(value, Tensor):
        return value, None
    if isinstance(value, Masked | Hidden):
        others = [type(part).__name__ for part in value if not isinstance(part, Tensor)]
        if others:
            raise ValueError(f"expected {type(value).__name__} to hold tensors alone, got {others[0]}")
        if value.mask.dtype != torch.bool:
            raise ValueError(f"expected a bool mask (True = real), got {value.mask.dtype}")
        return value.values, value.mask
    raise ValueError(f"expected a tensor or Masked(values, mask), got {type(value).__name__}")


def broadcast_mask(mask: Tensor, shape: Sequence[int]) -> Tensor:
    """A mask over the first axes, expanded to all of `shape`.

    Raises:
        ValueError: A mask that is not over the first axes.

    Example:
        >>> broadcast_mask(torch.tensor([True, False]), (2, 3)).tolist()
        [[True, True, True], [False, False, False]]
    """
    if tuple(mask.shape) != tuple(shape[: mask.dim()]):
        raise ValueError(
            f"expected a mask over the first axes of shape {tuple(shape)}, got {tuple(mask.shape)}"
        )
    return _trailing(mask, len(shape)).expand(*shape)


def element_mask(mask: Tensor | None, shape: Sequence[int]) -> Tensor | None:
    """A mask per patient (b,) or per element as one of exactly `shape`; None stays None.

    Raises:
        ValueError: A mask of any other shape.
    """
    if mask is None or mask.shape == shape:
        return mask
    if mask.shape == shape[:1]:
        return broadcast_mask(mask, shape)
    raise ValueError(
        f"expected a mask of shape {tuple(shape[:1])} or {tuple(shape)}, got {tuple(mask.shape)}"
    )


def _mask_of(value: Any) -> Tensor:
    mask = getattr(value, "mask", None)
    if not isinstance(mask, Tensor) or not hasattr(value, "_replace"):
        raise ValueError(f"expected a tensor or a NamedTuple with a mask, got {type(value).__name__}")
    return mask


def _trailing(mask: Tensor, axes: int) -> Tensor:
    """The mask with axes of size 1 appended, so that it has `axes` of them."""
    return mask.reshape(mask.shape + (1,) * (axes - mask.dim()))


def _to(value: Any, converted: tuple[str, ...], *args: Any, **kwargs: Any) -> Any:
    """`Tensor.to(*args, **kwargs)` for the fields in `converted`; the others change their device and keep their type."""
    device = kwargs.get("device")
    for arg in args:
        if isinstance(arg, Tensor):
            device = arg.device
        elif isinstance(arg, (str, int, torch.device)) and not isinstance(arg, bool):
            device = arg

    def placed(tensor: Tensor, field: str) -> Tensor:
        if field in converted:
            return tensor.to(*args, **kwargs)
        return tensor if device is None else tensor.to(device, non_blocking=kwargs.get("non_blocking", False))

    return map_tensors(placed, value)
