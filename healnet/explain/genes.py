"""Genes: which ones the model reads, in which direction, and how steadily over folds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from healnet._plotting import LOWERS, RAISES, despine, direction_legend, new_axes, readable, use_fonts
from healnet.explain._checks import numbers, rows_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

UNSTEADY = 0.5  # a gene that is among the most important in fewer of the folds

__all__ = ["gene_set_scores", "plot_gene_bars", "rank_genes", "top_k_stability"]


def rank_genes(
    names: Sequence[str],
    scores: ArrayLike,
    gradients: ArrayLike | None = None,
    repeats: ArrayLike | None = None,
    k: int = 20,
) -> pd.DataFrame:
    """Genes from the most to the least important, as a table.

    Args:
        names: (f,) gene names.
        scores: (f,) of one patient, or (b, f); what counts is the size, averaged over patients. NaN, or a row of NaN, is a
            patient without the gene.
        gradients: Gradients of the risk with respect to the expression, shaped as `scores`: give the direction.
        repeats: (r, f) scores in each of r folds or bootstraps, whose size counts likewise: gives the stability.
        k: Size of the top that the stability is about.

    Returns:
        Index `gene`; columns `rank` (from 1, equal scores share the best), `score`; with gradients `direction` (+1 where
        more of it raises the risk on average, -1 lowers) and `agreement` (share with that sign among the patients whose
        gradient is not 0, which it is for those without the gene); with repeats `stability` (share of the repeats in which
        the gene is in the top k).

    Raises:
        ValueError: Shapes that do not fit.

    Example:
        >>> table = rank_genes(["A", "B"], [[0.1, -2.0], [0.3, 1.0]], gradients=[[1, -1], [1, -2]])
        >>> table["rank"].to_dict(), table["direction"].to_dict()
        ({'B': 1, 'A': 2}, {'B': -1, 'A': 1})
    """
    import pandas as pd  # here, for importing it takes longer than all of healnet

    values = rows_of(scores, len(names), "scores")
    importance = _mean(np.abs(values))
    columns: dict[str, NDArray[np.generic]] = {"score": importance}
    if gradients is not None:
        slopes = rows_of(gradients, len(names), "gradients")
        direction = np.sign(_mean(slopes))
        columns["direction"] = direction.astype(int)
        columns["agreement"] = _mean(
            np.where(np.isnan(slopes) | (slopes == 0), np.nan, np.sign(slopes) == direction)
        )
    if repeats is not None:
        columns["stability"] = top_k_stability(np.abs(rows_of(repeats, len(names), "repeats")), k)
    table = pd.DataFrame(columns, index=pd.Index(list(names), name="gene"))
    table = table.sort_values("score", ascending=False, kind="stable")
    table.insert(0, "rank", table["score"].rank(ascending=False, method="min").astype(int))
    return table


def top_k_stability(importances: ArrayLike, k: int) -> NDArray[np.float64]:
    """Compute how often each gene is among the k most important: its share of the r repeats (folds, bootstraps, seeds).

    Equal importances at the edge are all counted in only if they fit; a gene is in the top k if fewer than k are at least as
    important as it, itself not counted.

    Args:
        importances: (r, f), larger = more important; NaN is a repeat without the gene, where it is not in the top k.
        k: Number of genes in the top, at least 1.

    Returns:
        (f,) in [0, 1].

    Raises:
        ValueError: Another number of axes, or k below 1.

    Example:
        >>> top_k_stability([[3.0, 2.0, 1.0], [3.0, 0.0, 1.0]], k=2).tolist()
        [1.0, 0.5, 0.5]
    """
    values = numbers(importances)
    if values.ndim != 2 or k < 1:
        raise ValueError(f"expected importances of shape (r, f) and k >= 1, got {values.shape} and {k}")
    values = np.where(np.isnan(values), -np.inf, values)
    at_least = np.stack([len(row) - np.searchsorted(np.sort(row), row, side="left") for row in values])
    return np.asarray(((at_least <= k) & (values > -np.inf)).mean(axis=0), dtype=np.float64)


def gene_set_scores(
    names: Sequence[str],
    scores: ArrayLike,
    gene_sets: Mapping[str, Iterable[str]],
    symbol: Callable[[str], str] = str,
) -> tuple[list[str], NDArray[np.float64]]:
    """Score of each gene set: the sum of its members' signed scores, per patient. A gene counts in every set it is in.

    Args:
        names: (f,) feature names.
        scores: (b, f), additive ones such as `gradient_x_input` or `integrated_gradients`; NaN counts 0.
        gene_sets: set -> its genes. Sets without any member among the names are left out.
        symbol: A feature's gene, such as ``lambda name: name.split("_")[0]`` for ``TP53_rnaseq``.

    Returns:
        The s sets' names, and (b, s).

    Raises:
        ValueError: Shapes that do not fit, or no set with a member.

    Example:
        >>> gene_set_scores(["A", "B"], [[1.0, -3.0]], {"both": ["A", "B"], "first": ["A"], "none": ["C"]})
        (['both', 'first'], array([[-2.,  1.]]))
    """
    values = np.nan_to_num(rows_of(scores, len(names), "scores"))
    genes = [symbol(name) for name in names]
    members = {name: np.isin(genes, list(own)) for name, own in gene_sets.items()}
    found = [name for name, inside in members.items() if inside.any()]
    if not found:
        raise ValueError(
            f"none of the {len(gene_sets)} gene sets has a member among the {len(names)} features"
        )
    return found, np.stack([values[:, members[name]].sum(axis=1) for name in found], axis=1)


def plot_gene_bars(
    names: Sequence[str],
    scores: ArrayLike,
    direction: ArrayLike | None = None,
    stability: ArrayLike | None = None,
    *,
    k: int = 20,
    xlabel: str = "importance (mean size of the score)",
    quantity: str = "risk",
    ax: Axes | None = None,
) -> Axes:
    """The k most important genes as bars: orange raises the risk, blue lowers it, gray where no direction is given.

    Bars of genes that are among the most important in fewer than half of the folds are pale and hatched, and the legend
    warns of them: another cohort would rank other genes.

    Args:
        names: (f,) genes or gene sets.
        scores: (f,); the size is the bar's length. Signed scores of one patient give their own direction.
        direction: (f,) signs, NaN where unknown; by default those of the scores if any is negative.
        stability: (f,) in [0, 1], written behind the bar as a percentage of the folds.
        k: Number of genes, at most.
        xlabel: Quantity that a bar measures.
        quantity: Name of what a gene raises or lowers.
        ax: Axes to draw on; by default new axes of a figure of their own.

    Raises:
        ValueError: Lengths that differ, or a score or stability that is not finite.
        ImportError: matplotlib is not installed.
    """
    given = {"scores": scores, "direction": direction, "stability": stability}
    found = {what: numbers(v) for what, v in given.items() if v is not None}
    for what, column in found.items():
        if column.shape != (len(names),):
            raise ValueError(f"expected {what} of shape ({len(names)},), one per name, got {column.shape}")
        if what != "direction" and not np.isfinite(column).all():
            wrong = int(np.flatnonzero(~np.isfinite(column))[0])
            raise ValueError(f"expected finite {what}, got {column[wrong]} for {names[wrong]!r}")
    values, steady = found["scores"], found.get("stability")
    signs = found.get("direction", values if (values < 0).any() else np.zeros(len(names)))
    top = np.argsort(-np.abs(values), kind="stable")[:k]
    labels = [readable(names[i], longest=44) for i in top]
    if ax is None:
        ax = new_axes(max(5.5, 4.3 + 0.075 * max(map(len, labels), default=0)), 1.1 + 0.24 * len(top))
    color = {1: RAISES, -1: LOWERS, 0: "0.6"}
    sign = np.sign(np.nan_to_num(signs)).astype(int)
    bars = ax.barh(
        range(len(top)), np.abs(values[top]), color=[color[int(s)] for s in sign[top]], height=0.75
    )
    ax.set_yticks(range(len(top)), labels, fontsize="small")
    ax.set_ylim(len(top) - 0.4, -0.6)
    ax.set_xlabel(xlabel if steady is None else f"{xlabel}\n%: how often among the most important")
    if steady is not None:
        for row, i in enumerate(top):
            ax.annotate(
                f"{steady[i]:.0%}",
                (abs(values[i]), row),
                (3, 0),
                textcoords="offset points",
                va="center",
                fontsize="x-small",
            )
        for bar in (bar for bar, i in zip(bars, top, strict=True) if steady[i] < UNSTEADY):
            bar.set(alpha=0.45, hatch="////", edgecolor="white")
        ax.margins(x=0.12)
    ax.set_xlim(left=0)  # also where all are 0
    unsteady = 0 if steady is None else int((steady[top] < UNSTEADY).sum())
    warning = f"hatched: unstable, {unsteady} of {len(top)} in fewer than half" if unsteady else None
    direction_legend(ax, sign[top], quantity, prefix="higher ", warning=warning)
    use_fonts(ax)
    return despine(ax)


def _mean(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over rows that are not NaN; 0 where all are."""
    seen = ~np.isnan(rows)
    return np.asarray(np.where(seen, rows, 0).sum(axis=0) / np.maximum(seen.sum(axis=0), 1), dtype=np.float64)
