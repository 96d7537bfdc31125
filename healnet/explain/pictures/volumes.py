"""Images and volumes: token scores back on the voxel grid, drawn over it, and written as NIfTI."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from healnet._files import atomic_path
from healnet._plotting import Panels, add_colorbar, color_limits, new_axes, panels, trim, use_fonts
from healnet.explain._checks import numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_image_overlay", "plot_orthogonal_slices", "to_nifti", "voxel_scores"]


def voxel_scores(
    scores: ArrayLike,
    shape: Sequence[int],
    patch: int | Sequence[int] = 1,
    mask: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Scores per token of a `GridEncoder` in the shape of its input; a block's voxels all get the block's score.

    Args:
        scores: (n,) of one patient, or (b, n); the last axis of the grid fastest, as the encoder makes tokens.
        shape: The input's axes, without batch and channels.
        patch: The encoder's `patch`.
        mask: bool, (*shape) or (b, *shape), True = real; NaN elsewhere.

    Returns:
        (*shape) or (b, *shape).

    Raises:
        ValueError: Another number of tokens than the shape has blocks.

    Example:
        >>> voxel_scores([1.0, 2.0], shape=(2, 3), patch=2).tolist()
        [[1.0, 1.0, 2.0], [1.0, 1.0, 2.0]]
    """
    values, axes = numbers(scores), tuple(shape)
    sides = (patch,) * len(axes) if isinstance(patch, int) else tuple(patch)
    blocks = tuple(-(-size // side) for size, side in zip(axes, sides, strict=True))
    if values.ndim not in (1, 2) or values.shape[-1] != np.prod(blocks):
        raise ValueError(
            f"a grid of {axes} in blocks of {sides} has {np.prod(blocks)} tokens, got scores of {values.shape}"
        )
    lead = values.ndim - 1
    grid = values.reshape(values.shape[:-1] + blocks)
    for axis, (side, size) in enumerate(zip(sides, axes, strict=True), start=lead):
        grid = np.repeat(grid, side, axis=axis).take(np.arange(size), axis=axis)
    return grid if mask is None else np.where(np.asarray(mask, dtype=bool), grid, np.nan)


def plot_image_overlay(
    image: ArrayLike,
    scores: ArrayLike,
    *,
    limits: tuple[float, float] | None = None,
    cmap: str | None = None,
    alpha: float = 0.5,
    aspect: float = 1.0,
    colorbar: bool = True,
    label: str = "score",
    ax: Axes | None = None,
) -> Axes:
    """Scores over a two-dimensional image. Where scores are NaN the image shows as it is.

    Scores of both signs get a diverging map about 0 (blue lowers, red raises); those of one sign a sequential one.

    Args:
        image: (h, w), (h, w, 1) or (h, w, 3); a single channel is drawn in gray.
        scores: (h, w).
        limits: Scores at the ends of the color map, (-a, a) for the diverging one; by default from the scores.
        cmap: A matplotlib color map instead.
        alpha: Opacity of the scores.
        aspect: Height of a pixel over its width, for anisotropic voxels.
        colorbar: Whether to draw one beside the axes.
        label: Text of the color bar.
        ax: Axes to draw on; by default new axes of a figure of their own.

    Raises:
        ValueError: Shapes that differ.
        ImportError: matplotlib is not installed.
    """
    picture, heat = np.asarray(image), numbers(scores)
    if picture.ndim == 3 and picture.shape[2] == 1:
        picture = picture[:, :, 0]
    if picture.ndim not in (2, 3) or heat.shape != picture.shape[:2]:
        raise ValueError(
            f"expected an image (h, w[, 3]) and scores (h, w) of one size, got {picture.shape} and {heat.shape}"
        )
    if limits is None:
        low, high, colors = color_limits(heat)
    else:
        low, high, colors = *limits, "RdBu_r" if limits[0] == -limits[1] else "viridis"
    own = ax is None
    ax = new_axes(5.0, 4.2) if ax is None else ax
    ax.imshow(picture, cmap="gray", interpolation="nearest", aspect=aspect)
    drawn = ax.imshow(
        np.ma.masked_invalid(heat),
        cmap=cmap or colors,
        vmin=low,
        vmax=high,
        alpha=alpha,
        interpolation="nearest",
        aspect=aspect,
    )
    ax.set_xticks([])
    ax.set_yticks([])
    if colorbar:
        add_colorbar(drawn, [ax], label)
    use_fonts(ax)
    if own:
        trim(ax.figure.figure)
    return ax


def plot_orthogonal_slices(
    volume: ArrayLike,
    scores: ArrayLike,
    at: Sequence[int] | None = None,
    *,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    names: Sequence[str] = ("axis 0", "axis 1", "axis 2"),
    alpha: float = 0.5,
    label: str = "score",
    ax: Axes | None = None,
) -> Panels:
    """Three slices through one voxel, each across one axis, with the scores over them and the other two slices as lines.

    Args:
        volume: (x, y, z), or (x, y, z, c) with 1 or 3 channels.
        scores: (x, y, z).
        at: The voxel; by default where the score is largest in size.
        spacing: Length of a voxel along each axis, in any one unit.
        names: Names of the axes.
        alpha: Opacity of the scores.
        label: Text of the color bar.
        ax: Axes to draw on, divided into three; by default a figure of its own.

    Raises:
        ValueError: Shapes that differ, a voxel outside, scores without a number.
        ImportError: matplotlib is not installed.
    """
    picture, heat = np.asarray(volume), numbers(scores)
    if heat.ndim != 3 or picture.shape[:3] != heat.shape or picture.ndim not in (3, 4):
        raise ValueError(
            f"expected a volume (x, y, z[, c]) and scores (x, y, z) of one size, got {picture.shape} and {heat.shape}"
        )
    low, high, colors = color_limits(heat)
    if at is None:
        voxel = tuple(int(i) for i in np.unravel_index(np.nanargmax(np.abs(heat)), heat.shape))
    else:
        voxel = tuple(at)
    if len(voxel) != 3 or not all(0 <= i < n for i, n in zip(voxel, heat.shape, strict=True)):
        raise ValueError(f"expected a voxel inside {heat.shape}, got {voxel}")
    three = panels(ax, 1, 3, (9.6, 3.4))
    for axis, panel in enumerate(three):
        down, across = [i for i in range(3) if i != axis]
        plot_image_overlay(
            picture.take(voxel[axis], axis=axis),
            heat.take(voxel[axis], axis=axis),
            limits=(low, high),
            cmap=colors,
            alpha=alpha,
            aspect=spacing[down] / spacing[across],
            colorbar=False,
            ax=panel,
        )
        panel.axhline(voxel[down], color="white", linewidth=0.6, linestyle=":")
        panel.axvline(voxel[across], color="white", linewidth=0.6, linestyle=":")
        panel.set(
            title=f"{names[axis]} = {voxel[axis]}", xlabel=f"{names[across]} →", ylabel=f"← {names[down]}"
        )
    add_colorbar(three[0].images[1], three, label)
    use_fonts(*three)
    if ax is None:
        trim(three.figure)
    return three


def to_nifti(scores: ArrayLike, path: str | Path, affine: ArrayLike | None = None) -> Path:
    """Write voxel scores (x, y, z) as NIfTI, float32, to lay over the image in any viewer; NaN becomes 0.

    Args:
        scores: (x, y, z).
        path: File to write, whose name ends in .nii or .nii.gz.
        affine: (4, 4) from voxels to millimeters; take the image's own (`nibabel.load(image).affine`). By default
            voxels of 1 mm.

    Raises:
        ValueError: Another number of axes, or another ending.
        ImportError: nibabel is not installed.
    """
    try:
        import nibabel
    except ImportError as error:
        raise ImportError("writing NIfTI needs nibabel: pip install nibabel") from error
    values, path = numbers(scores), Path(path)
    if values.ndim != 3 or not path.name.endswith((".nii", ".nii.gz")):
        raise ValueError(
            f"expected scores (x, y, z) and a path ending in .nii or .nii.gz, got {values.shape} and {path.name!r}"
        )
    matrix = np.eye(4) if affine is None else np.asarray(affine, dtype=np.float64)
    written: bytes = nibabel.Nifti1Image(np.nan_to_num(values).astype(np.float32), matrix).to_bytes()
    with atomic_path(path) as partial:
        partial.write_bytes(gzip.compress(written, mtime=0) if path.suffix == ".gz" else written)
    return path
