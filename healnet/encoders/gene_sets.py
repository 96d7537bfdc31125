"""Genes by pathway or family: a token per gene set."""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from healnet.encoders.base import ModalityEncoder
from healnet.inputs import Masked, element_mask, unmask
from healnet.tokens import Tokens

__all__ = ["GeneSetEncoder", "read_gmt", "read_signatures"]

_LOG = logging.getLogger(__name__)
REST = "rest"


class GeneSetEncoder(ModalityEncoder):
    """A token per gene set, from its own member genes alone: SELU(W_s x_s + b_s), with dropout on the genes.

    As in MCAT (Chen et al. 2021) and SurvPath (Jaume et al. 2024, arXiv 2304.06819), each set has its own self-normalizing
    projection (LeCun-normal in the number of its members). A gene may be in several sets. Sets name genes by symbol, and
    one symbol takes every feature of that gene: TP53 takes `TP53_rnaseq`, `TP53_cnv` and `TP53_mut` of one table.

    A feature that a present patient lacks (`Masked` with an elementwise mask) enters as 0, which is the training mean of a
    standardized feature; a set of which a patient has no feature at all is a masked token.

    Weights belong to names: an encoder of the same features in another order takes the same state dict.

    Args:
        features: Names of the table's columns, in order.
        gene_sets: Symbols by set, as `read_gmt` and `read_signatures` return them.
        token_dim: Width of a token.
        rest: Treatment of features that are in no set: "token" gives them a token of their own, named "rest" (if there
            are any), "drop" leaves them out, "refuse" raises.
        min_genes: Number of genes that a set needs among the features; one with fewer gets no token
            and is listed in `dropped`.
        suffixes: Endings that are cut from a feature's name to get its symbol.
        dropout: Probability of dropping a gene's value, in training.

    Attributes:
        names: Sets that have tokens, in the order of the tokens.
        missing: Symbols that no feature has, by set; `missing_genes` is their union.
        dropped: Sets without a token.

    Shape:
        inputs: (b, f), or Masked with a mask of (b,) or (b, f)
        returns: (b, s, token_dim)

    Raises:
        ValueError: Repeated features; no set with enough genes; features in no set with rest="refuse"; another shape.

    Example:
        >>> encoder = GeneSetEncoder(
        ...     ["TP53_rnaseq", "TP53_mut", "MYC_rnaseq", "GAPDH_rnaseq"],
        ...     {"suppressors": ["TP53", "RB1"], "cycle": ["TP53", "MYC"]},
        ... )
        >>> encoder.names, encoder.missing["suppressors"]
        (('suppressors', 'cycle', 'rest'), ('RB1',))
        >>> encoder(torch.zeros(8, 4)).values.shape
        torch.Size([8, 3, 32])
    """

    _gene: Tensor
    _set: Tensor

    def __init__(
        self,
        features: Sequence[str],
        gene_sets: Mapping[str, Sequence[str]],
        token_dim: int = 32,
        rest: Literal["token", "drop", "refuse"] = "token",
        min_genes: int = 1,
        suffixes: Sequence[str] = ("_rnaseq", "_cnv", "_mut"),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if rest not in ("token", "drop", "refuse"):
            raise ValueError(f"expected rest 'token', 'drop' or 'refuse', got {rest!r}")
        if len(set(features)) != len(features):
            repeated = next(name for name in features if list(features).count(name) > 1)
            raise ValueError(f"expected each feature once, got {repeated!r} more than once")
        columns: dict[str, list[int]] = {}
        for column, name in enumerate(features):
            columns.setdefault(_symbol(name, suffixes), []).append(column)
        members: dict[str, list[int]] = {}
        missing: dict[str, tuple[str, ...]] = {}
        for name, symbols in gene_sets.items():
            unique = list(dict.fromkeys(symbols))
            found = [symbol for symbol in unique if symbol in columns]
            missing[name] = tuple(symbol for symbol in unique if symbol not in columns)
            if len(found) >= max(1, min_genes):
                members[name] = [column for symbol in found for column in columns[symbol]]
        if not members:
            raise ValueError(
                f"expected a gene set with at least {max(1, min_genes)} of its genes among the features, got none; "
                f"features are named {list(features)[:3]}, genes {list(next(iter(gene_sets.values()), []))[:3]}"
            )
        used = {column for indices in members.values() for column in indices}
        others = [column for column in range(len(features)) if column not in used]
        if others and rest == "refuse":
            raise ValueError(
                f"expected every feature to be in a gene set, got {len(others)} of {len(features)} in none: "
                f"{', '.join(features[column] for column in others[:5])}"
            )
        if others and rest == "token":
            if REST in members:
                raise ValueError(f"expected no gene set to be named {REST!r}, the name of the rest token")
            members[REST] = others
        self.features = tuple(features)
        self.gene_sets = {name: tuple(symbols) for name, symbols in gene_sets.items()}
        self.rest = rest
        self.min_genes = min_genes
        self.suffixes = tuple(suffixes)
        self.num_features = len(features)
        self.token_dim = token_dim
        self.dropout = dropout
        self.names = tuple(members)
        self.missing = missing
        self.dropped = tuple(name for name in gene_sets if name not in members)
        if self.missing_genes:
            _LOG.info(
                "%d of %d genes of %d gene sets are not among the features; %d sets are dropped",
                len(self.missing_genes),
                len({symbol for symbols in gene_sets.values() for symbol in symbols}),
                len(gene_sets),
                len(self.dropped),
            )
        # One row of weights per pair of a set and a member: the sets one after another, members by name.
        genes = [column for own in members.values() for column in sorted(own, key=lambda i: features[i])]
        self._sizes = [len(own) for own in members.values()]
        sizes = torch.tensor(self._sizes)
        self.register_buffer("_gene", torch.tensor(genes), persistent=False)
        self.register_buffer("_set", torch.arange(len(sizes)).repeat_interleave(sizes), persistent=False)
        fan_in = sizes.repeat_interleave(sizes).unsqueeze(1)
        self.weight = nn.Parameter(torch.randn(len(self._gene), token_dim) * fan_in**-0.5)
        self.bias = nn.Parameter(torch.zeros(len(sizes), token_dim))

    @property
    def missing_genes(self) -> tuple[str, ...]:
        """The symbols of all sets that no feature has, sorted."""
        return tuple(sorted({symbol for symbols in self.missing.values() for symbol in symbols}))

    def extra_repr(self) -> str:
        """Return the text that `repr` shows."""
        return (
            f"num_features={self.num_features}, sets={len(self.names)}, token_dim={self.token_dim}, "
            f"missing_genes={len(self.missing_genes)}"
        )

    def forward(self, inputs: Tensor | Masked) -> Tokens:
        """Encode a batch of rows."""
        values, mask = unmask(inputs)
        if values.dim() != 2 or values.shape[1] != self.num_features:
            raise ValueError(f"expected a shape of (b, {self.num_features}), got {tuple(values.shape)}")
        mask = element_mask(mask, values.shape)
        token_mask = None
        if mask is not None:
            values = values.masked_fill(~mask, 0)
            counts = torch.zeros(len(values), len(self.names), device=values.device)
            members = mask[:, self._gene].to(counts.dtype)
            token_mask = counts.index_add_(1, self._set, members) > 0
        values = F.dropout(values.to(self.weight.dtype), self.dropout, self.training)
        return Tokens(F.selu(self._project(values) + self.bias), token_mask)

    def _project(self, values: Tensor) -> Tensor:
        """(b, f) -> (b, s, token_dim): the sum over a set's members of value times row of weights."""
        # A product per set: training steps take a tenth of those with one embedding bag for all.
        members = values[:, self._gene].split(self._sizes, dim=1)
        weights = self.weight.split(self._sizes)
        return torch.stack([x @ w for x, w in zip(members, weights, strict=True)], dim=1)


def _symbol(feature: str, suffixes: Sequence[str]) -> str:
    for suffix in suffixes:
        if feature.endswith(suffix):
            return feature.removesuffix(suffix)
    return feature


def read_gmt(path: str | Path) -> dict[str, list[str]]:
    """Gene sets of a GMT file, the format of MSigDB: name, description and symbols, separated by tabs, a set per line.

    Raises:
        ValueError: A line with fewer than three fields, or a name that comes twice, with the line's number; an empty file.
    """
    path = Path(path)
    sets: dict[str, list[str]] = {}
    # Not `splitlines`, which also breaks a line at a form feed inside a description.
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        name, *rest = (field.strip() for field in line.split("\t"))
        symbols = [symbol for symbol in rest[1:] if symbol]
        if not name or not symbols:
            raise ValueError(
                f"{path.name}, line {number}: expected a name, a description and genes separated by tabs, got {line[:60]!r}"
            )
        if name in sets:
            raise ValueError(f"{path.name}, line {number}: gene set {name!r} comes a second time")
        sets[name] = symbols
    if not sets:
        raise ValueError(f"{path.name}: expected a gene set per line, got an empty file")
    return sets


def read_signatures(path: str | Path) -> dict[str, list[str]]:
    """Gene sets of a CSV file with a set per column, the format of MCAT's `signatures.csv`: names above, symbols below.

    Raises:
        ValueError: An empty file, a column without a name, a name that comes twice, or a line with more cells than names.
    """
    path = Path(path)
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.reader(file))
    names = [name.strip() for name in rows[0]] if rows else []
    if not names or not all(names) or len(set(names)) != len(names):
        raise ValueError(f"{path.name}: expected a first line of distinct names of gene sets, got {names}")
    sets: dict[str, list[str]] = {name: [] for name in names}
    for number, row in enumerate(rows[1:], start=2):
        if any(symbol.strip() for symbol in row[len(names) :]):
            raise ValueError(f"{path.name}, line {number}: expected {len(names)} cells, got {len(row)}")
        for name, symbol in zip(names, row, strict=False):
            if symbol.strip():
                sets[name].append(symbol.strip())
    return sets
