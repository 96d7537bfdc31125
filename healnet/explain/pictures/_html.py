"""One self-contained page: escaped text, bars and curves as HTML and SVG, pictures inside. No scripts, no links outside."""

from __future__ import annotations

import base64
import hashlib
import html
import math
import re
from collections.abc import Sequence
from urllib.parse import quote

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["bars", "card", "curve", "escaped", "facts", "page", "picture", "safe_name"]

_LONGEST_NAME = 120
_PNG = b"\x89PNG\r\n\x1a\n"

# Nothing may be loaded, run or sent, whatever might get into the page.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

_STYLE = """
:root { --ink: #1d2530; --soft: #5c6773; --line: #dfe4ea; --paper: #fff; --ground: #f4f6f8; --up: #d55e00; --down: #0072b2;
  color-scheme: light dark }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --soft: #a2adba; --line: #353e49; --paper: #1c222a;
  --ground: #12161c; --up: #e8792b; --down: #4aa3df } img { border-radius: 6px } }
* { box-sizing: border-box }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", sans-serif; overflow-wrap: anywhere }
main { max-width: 1180px; margin: 0 auto; padding: 24px 20px 40px }
h1 { font-size: 1.5rem; line-height: 1.2; margin: 0 0 4px }
h2 { font-size: 1.05rem; margin: 0 0 2px }
p { margin: 0 0 12px } .soft { color: var(--soft); font-size: .87rem }
.facts { display: flex; flex-wrap: wrap; gap: 10px 28px; margin: 14px 0 20px; padding: 0 }
.facts dt { color: var(--soft); font-size: .8rem }
.facts dd { margin: 0; font-size: 1.1rem; font-weight: 600 }
.cards { columns: 2 420px; column-gap: 16px }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 16px 18px;
  margin: 0 0 16px; break-inside: avoid; overflow: hidden }
section > :last-child { margin-bottom: 0 }
section.wide { column-span: all; margin-top: 16px }
img, svg { display: block; max-width: 100%; height: auto; margin: 4px auto 0 }
svg { width: 100%; max-width: 560px; overflow: visible } svg text { fill: var(--soft); font-size: 12px }
.grid { stroke: var(--line) } .tick { stroke: var(--soft) } circle { fill: var(--up) }
polyline { fill: none; stroke: var(--down); stroke-width: 2.2; stroke-linejoin: round }
table { width: 100%; border-collapse: collapse; table-layout: fixed; font-variant-numeric: tabular-nums }
th { font-weight: 500; color: var(--soft); font-size: .8rem; text-align: left; padding: 0 0 4px }
td { padding: 2px 0; border-top: 1px solid var(--line); vertical-align: middle }
td.name { width: 34%; padding-right: 8px; font-size: .9rem }
td.number { text-align: right; font-size: .87rem }
th.number { text-align: right } th.sides { text-align: center } col.number { width: 4.6rem } col.name { width: 34% }
.track { position: relative; height: 14px;
  background: linear-gradient(var(--soft), var(--soft)) center / 1px 100% no-repeat }
.track i { position: absolute; top: 1px; bottom: 1px; border-radius: 2px }
.up { background: var(--up) } .down { background: var(--down) }
footer { margin-top: 20px }
@media (max-width: 480px) { main { padding: 16px 12px 28px } section { padding: 13px 12px } h1 { font-size: 1.25rem }
  svg text { font-size: 14px } }
@media print { body { background: #fff } }
""".strip()


def escaped(text: object) -> str:
    """Any text for the page's body or an attribute: markup escaped, unprintable characters replaced."""
    clean = str(text).encode("utf-8", "replace").decode("utf-8")
    return html.escape(
        re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", "\N{REPLACEMENT CHARACTER}", clean), quote=True
    )


def safe_name(text: str) -> str:
    """A patient's id as part of a file name: letters, digits, ``-``, ``_`` and ``.`` as they are, all else percent-encoded.

    Different ids give different names; a very long one is cut and gets its SHA-256.

    Raises:
        ValueError: An empty id.

    Example:
        >>> safe_name("TCGA-OR-A5J1"), safe_name("../<b>")
        ('TCGA-OR-A5J1', '..%2F%3Cb%3E')
    """
    if not text:
        raise ValueError("expected a patient id, got an empty one")
    name = quote(text, safe="", errors="surrogatepass").replace("~", "%7E")
    if len(name) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{name[:_LONGEST_NAME]}-{digest[:16]}"


def page(title: str, head: str, cards: Sequence[str], foot: str) -> str:
    """The whole document. `title` and `foot` are text; `head` and `cards` are HTML made by this module."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped(title)}</title>\n<style>\n{_STYLE}\n</style>\n</head>\n<body>\n<main>\n"
        f"<h1><bdi>{escaped(title)}</bdi></h1>\n{head}\n"
        f'<div class="cards">\n{"".join(cards)}</div>\n'
        f'<footer class="soft">{escaped(foot)}</footer>\n</main>\n</body>\n</html>\n'
    )


def card(title: str, body: str, note: str = "", wide: bool = False) -> str:
    """A titled box. `title` and `note` are text; `body` is HTML made by this module."""
    said = f'<p class="soft">{escaped(note)}</p>' if note else ""
    kind = ' class="wide"' if wide else ""
    return f"<section{kind}><h2>{escaped(title)}</h2>{said}{body}</section>\n"


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """Labeled values in a row."""
    items = "".join(f"<div><dt>{escaped(k)}</dt><dd><bdi>{escaped(v)}</bdi></dd></div>" for k, v in pairs)
    return f'<dl class="facts">{items}</dl>'


def bars(
    names: Sequence[str],
    values: ArrayLike,
    notes: Sequence[str] | None = None,
    heads: tuple[str, str, str] = ("", "lowers | raises", ""),
) -> str:
    """A table of bars about 0, orange to the right, blue to the left; NaN is a row without a bar.

    Args:
        names: Names of the rows.
        values: One number per row.
        notes: Text to write instead of the number.
        heads: Titles of the three columns.

    Raises:
        ValueError: Lengths that differ.
    """
    numbers = np.asarray(values, dtype=np.float64)
    written = [f"{v:+.3g}" for v in numbers] if notes is None else list(notes)
    if numbers.shape != (len(names),) or len(written) != len(names):
        raise ValueError(f"expected {len(names)} values and notes, got {numbers.shape} and {len(written)}")
    longest = float(np.nanmax(np.abs(numbers))) if np.isfinite(numbers).any() else 0.0
    rows = []
    for name, value, note in zip(names, numbers.tolist(), written, strict=True):
        length = 0.0 if not math.isfinite(value) or longest == 0 else 50 * abs(value) / longest
        side, kind = ("left", "up") if value > 0 else ("right", "down")
        bar = f'<i class="{kind}" style="{side}:50%;width:{length:.2f}%"></i>' if length else ""
        rows.append(
            f'<tr><td class="name"><bdi>{escaped(name)}</bdi></td><td><div class="track">{bar}</div></td>'
            f'<td class="number">{escaped(note)}</td></tr>'
        )
    first, middle, last = (escaped(head) for head in heads)
    top = f'<th>{first}</th><th class="sides">{middle}</th><th class="number">{last}</th>'
    return (
        '<table><colgroup><col class="name"><col><col class="number"></colgroup>'
        f"<thead><tr>{top}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def curve(times: ArrayLike, survival: ArrayLike, time_unit: str, steps: bool = False) -> str:
    """A survival curve as SVG, with its median where it reaches one half.

    Args:
        times: Times of the curve, increasing from >= 0.
        survival: Survival at those times; 1 before the first.
        time_unit: Unit of the times, written below the axis.
        steps: Whether S stays as it is until the next time (Cox, Kaplan-Meier); otherwise straight lines lead there.

    Raises:
        ValueError: Times that do not increase from >= 0, or survival outside [0, 1]; lengths that differ or below 2.
    """
    t, s = np.asarray(times, dtype=np.float64), np.asarray(survival, dtype=np.float64)
    rising = (
        t.ndim == 1 and len(t) > 1 and bool(np.isfinite(t).all() and (np.diff(t) > 0).all() and t[0] >= 0)
    )
    if not rising or t.shape != s.shape:
        raise ValueError(
            f"expected finite increasing times >= 0 and a survival for each, got {t.shape} and {s.shape}"
        )
    if not ((s >= 0) & (s <= 1)).all():
        raise ValueError("expected survival probabilities in [0, 1]")
    if t[0] > 0 or s[0] < 1:
        t, s = np.concatenate([[0.0], t]), np.concatenate([[1.0], s])
    if steps:
        t, s = np.repeat(t, 2)[1:], np.repeat(s, 2)[:-1]
    left, right, top, bottom = 44.0, 436.0, 12.0, 208.0
    x = left + (right - left) * t / t[-1]
    y = bottom - (bottom - top) * s
    parts = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        level = bottom - (bottom - top) * share
        parts.append(f'<line x1="{left}" x2="{right}" y1="{level:.1f}" y2="{level:.1f}" class="grid"/>')
        parts.append(f'<text x="{left - 6}" y="{level + 4:.1f}" text-anchor="end">{share:.0%}</text>')
    for tick in _ticks(float(t[-1])):
        at = left + (right - left) * tick / t[-1]
        parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{bottom}" y2="{bottom + 4}" class="tick"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 18}" text-anchor="middle">{tick:g}</text>')
    middle = (left + right) / 2
    parts.append(
        f'<text x="{middle}" y="{bottom + 36}" text-anchor="middle">time ({escaped(time_unit)})</text>'
    )
    line = " ".join(f"{a:.2f},{b:.2f}" for a, b in zip(x, y, strict=True))
    parts.append(f'<polyline points="{line}"/>')
    below = np.flatnonzero(s <= 0.5)
    if len(below):
        i = max(1, int(below[0]))
        way = (s[i - 1] - 0.5) / (s[i - 1] - s[i]) if s[i - 1] > s[i] else 0.0
        median = t[i - 1] + way * (t[i] - t[i - 1])
        at, half = left + (right - left) * median / t[-1], (top + bottom) / 2
        # A falling curve leaves free space above on the right and below on the left.
        place, anchor = ((-8, 18), "end") if at > middle else ((8, -8), "start")
        text = f"{median:.0f}" if median >= 100 else f"{median:.3g}"
        parts.append(f'<circle cx="{at:.1f}" cy="{half:.1f}" r="4"/>')
        parts.append(
            f'<text x="{at + place[0]:.1f}" y="{half + place[1]:.1f}" text-anchor="{anchor}">median {text}</text>'
        )
    return f'<svg viewBox="0 0 450 250" role="img" aria-label="Predicted survival">{"".join(parts)}</svg>'


def picture(image: bytes, description: str, narrow: bytes | None = None) -> str:
    """A PNG inside the page, and another one that narrow screens show instead.

    Raises:
        ValueError: Bytes that are no PNG.
    """
    wide = f'<img alt="{escaped(description)}" src="{_data(image)}">'
    if narrow is None:
        return wide
    return f'<picture><source media="(max-width: 600px)" srcset="{_data(narrow)}">{wide}</picture>'


def _data(image: bytes) -> str:
    if not image.startswith(_PNG):
        raise ValueError(f"expected the bytes of a PNG, got {image[:8]!r}")
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


def _ticks(end: float) -> list[float]:
    """Four to eight round numbers from 0 to `end`."""
    power = 10.0 ** math.floor(math.log10(end))
    step = next(s for s in (power / 5, power / 2, power, 2 * power) if end / s <= 8)
    return [i * step for i in range(int(end / step + 1e-9) + 1)]
