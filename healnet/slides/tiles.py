"""Cut a slide into tiles: their coordinates, and their pixels when indexed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from healnet._processes import check_loader_start
from healnet.slides.slide_bounds import Bounds
from healnet.slides.tissue import Tissue

__all__ = ["PixelSource", "Tiles", "tile_grid"]


class PixelSource(Protocol):
    """Protocol of what tiles need of their slide; `Slide` has it."""

    path: Path
    name: str
    width: int
    height: int
    mpp: float | None
    bounds: Bounds

    def scaled_region(
        self, x: float, y: float, width: int, height: int, downsample: float | tuple[float, float]
    ) -> np.ndarray[Any, Any]:
        """See `Slide.scaled_region`."""


def tile_grid(width: int, height: int, footprint: int, stride: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Top-left corners of the tiles that cover a slide, row by row; those at its right and bottom edge may hang over.

    Shape:
        (n, 2) int64, (x, y).

    Example:
        >>> tile_grid(10, 4, footprint=4, stride=3).tolist()
        [[0, 0], [3, 0], [6, 0]]
        >>> tile_grid(11, 4, footprint=4, stride=3).tolist()
        [[0, 0], [3, 0], [6, 0], [9, 0]]
    """
    starts = [
        stride * np.arange(1 + max(0, -(-(length - footprint) // stride))) for length in (width, height)
    ]
    x, y = np.meshgrid(*starts)
    return np.stack((x.ravel(), y.ravel()), axis=1).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Tiles(Dataset[Tensor]):
    """The tiles of one slide: a map-style PyTorch dataset that reads pixels when indexed. Made by `Slide.tiles`.

    It can be pickled, and each worker of a DataLoader opens the slide for itself.

    Attributes:
        slide: Slide that the pixels come from.
        coords: (n, 2) int64, (x, y) of the top-left corners in level-0 pixels.
        size: Side length of a tile in its own pixels.
        footprint: Side length in level-0 pixels.
        overlap: Overlap of neighbors, in the tile's own pixels.
        mpp: Microns per pixel of the tiles, None if the slide's own pixels were taken unscaled.
        tissue: Mask that chose the tiles, None if all were taken.
        transform: Function applied to each (3, size, size) uint8 tile, in the worker that reads it.
    """

    slide: PixelSource
    coords: np.ndarray[Any, np.dtype[np.int64]]
    size: int
    footprint: int
    overlap: int
    mpp: float | None
    tissue: Tissue | None
    transform: Callable[[Tensor], Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        check_loader_start()
        return self.__dict__

    def __len__(self) -> int:
        return len(self.coords)

    def __getitem__(self, index: int) -> Tensor:
        """One tile, (3, size, size) uint8, or what `transform` makes of it; white beyond the slide."""
        tile = torch.from_numpy(self.pixels(index)).permute(2, 0, 1)
        return tile if self.transform is None else self.transform(tile)

    def pixels(self, index: int) -> np.ndarray[Any, Any]:
        """(size, size, 3) uint8 of one tile, without the transform."""
        x, y = self.coords[index]
        return self.slide.scaled_region(float(x), float(y), self.size, self.size, self.footprint / self.size)

    def with_transform(self, transform: Callable[[Tensor], Tensor]) -> Tiles:
        """The same tiles, each passed through `transform`."""
        return replace(self, transform=transform)
