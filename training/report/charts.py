"""Line charts and the embedding map as SVG; colors come from the page's style."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from training.report.image_strips import data_uri

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from training.report.watched import Watched

WIDTH, HEIGHT = 360, 210
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 30
POINTS = 160  # drawn of a longer curve: means of equal stretches
KINDS = 10  # colors of the map; classes past these share the last one
MAP, DOT, THUMBNAIL, CELLS = 640, 4, 34, 11


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One figure over the run."""

    name: str
    hint: str  # what to look for, in a few words
    x: Sequence[float]  # samples seen
    y: Sequence[float]
    percent: bool = False


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten) within [low, high]."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def format_number(value: float, *, percent: bool = False) -> str:
    """Return a number as an axis shows it: 12.5 %, 40k, 2e-4."""
    if percent:
        return f"{100 * value:.3g} %"
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:.3g}M"
    if size >= 1e4:
        return f"{value / 1e3:.3g}k"
    if 0 < size < 1e-3:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.4g}"


def thinned(curve: Curve) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At most `POINTS` points of a curve, each the mean of a stretch."""
    x, y = np.asarray(curve.x, np.float64), np.asarray(curve.y, np.float64)
    if len(x) <= POINTS:
        return x, y
    stretches = np.array_split(np.arange(len(x)), POINTS)
    return np.array([x[p].mean() for p in stretches]), np.array([y[p].mean() for p in stretches])


def line_chart(curve: Curve) -> str:
    """Return a figure with axes, ticks and a title on each point."""
    x, y = thinned(curve)
    low, high = float(y.min()), float(y.max())
    spare = (high - low or abs(high) or 1.0) * 0.08
    bounds = (low - spare, high + spare)
    across = (0.0, max(float(x.max()), 1.0))
    h = LEFT + (x - across[0]) / (across[1] - across[0]) * (WIDTH - LEFT - RIGHT)
    v = HEIGHT - BOTTOM - (y - bounds[0]) / (bounds[1] - bounds[0]) * (HEIGHT - TOP - BOTTOM)
    elements = []
    for tick in ticks(*bounds):
        at = (
            HEIGHT - BOTTOM - (tick - bounds[0]) / (bounds[1] - bounds[0]) * (HEIGHT - TOP - BOTTOM)
        )
        elements.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
        label = format_number(tick, percent=curve.percent)
        elements.append(f'<text x="{LEFT - 7}" y="{at + 4:.1f}" text-anchor="end">{label}</text>')
    for tick in ticks(*across):
        at = LEFT + tick / across[1] * (WIDTH - LEFT - RIGHT)
        elements.append(
            f'<text x="{at:.1f}" y="{HEIGHT - 9}" text-anchor="middle">{format_number(tick)}</text>'
        )
    path = "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(h, v, strict=True))
    elements.append(f'<path class="line" d="M{path}"/>')
    dots = "dots" if len(x) <= 30 else "dots far"
    circles = "".join(
        f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3"><title>{format_number(p)} samples: '
        f"{format_number(q, percent=curve.percent)}</title></circle>"
        for a, b, p, q in zip(h, v, x, y, strict=True)
    )
    last = format_number(float(curve.y[-1]), percent=curve.percent)
    return (
        f"<figure class=chart><figcaption><b>{escape(curve.name)}</b> <span>{last}</span>"
        f'<small>{escape(curve.hint)}</small></figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'role="img" aria-label="{escape(curve.name)}">{"".join(elements)}<g class="{dots}">'
        f"{circles}</g></svg></figure>"
    )


def plane(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the two principal components of unit rows [N,D], each scaled to [0,1]: [N,2]."""
    rows = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    centered = rows.astype(np.float64) - rows.mean(0)
    _, _, axes = np.linalg.svd(centered, full_matrices=False)
    coordinates = np.zeros((len(rows), 2))
    coordinates[:, : min(2, len(axes))] = centered @ axes[:2].T
    span = np.maximum(np.ptp(coordinates, axis=0), 1e-12)
    return np.asarray((coordinates - coordinates.min(0)) / span)


def embedding_map(features: NDArray[np.float32], watched: Watched) -> str:
    """Dots of the watched images, colored by class, and some of them as images."""
    margin = THUMBNAIL
    position = margin + plane(features) * (MAP - 2 * margin)
    dots = []
    for (x, y), label in zip(position, watched.labels, strict=True):
        kind = min(int(label), KINDS - 1) if label >= 0 else "none"
        name = watched.classes[label] if label >= 0 else "no label"
        dots.append(
            f'<circle class="k{kind}" cx="{x:.0f}" cy="{y:.0f}" r="{DOT}">'
            f"<title>{escape(name)}</title></circle>"
        )
    shown = {tuple(cell): n for n, cell in reversed(list(enumerate(position // (MAP / CELLS))))}
    half = THUMBNAIL / 2
    thumbnails = "".join(
        f'<image x="{position[n, 0] - half:.0f}" y="{position[n, 1] - half:.0f}" '
        f'width="{THUMBNAIL}" height="{THUMBNAIL}" '
        f'href="{data_uri(watched.images[n], THUMBNAIL * 2)}"/>'
        for n in shown.values()
    )
    return (
        f'<svg class=map viewBox="0 0 {MAP} {MAP}" role="img" aria-label="embedding map">'
        f"<g class=thumbs>{thumbnails}</g><g>{''.join(dots)}</g></svg>"
    )


def legend(watched: Watched) -> str:
    """Names of the classes beside their colors; nothing without labels."""
    present = sorted({int(label) for label in watched.labels if label >= 0})
    if not present:
        return ""
    named = [
        f'<li><svg viewBox="0 0 10 10"><circle class="k{label}" cx="5" cy="5" r="5"/></svg>'
        f"{escape(watched.classes[label])}</li>"
        for label in present
        if label < KINDS - 1 or len(watched.classes) == KINDS
    ]
    if len(watched.classes) > KINDS:
        named.append(
            f'<li><svg viewBox="0 0 10 10"><circle class="k{KINDS - 1}" cx="5" cy="5" r="5"/>'
            f"</svg>{len(watched.classes) - KINDS + 1} others</li>"
        )
    return f"<ul class=legend>{''.join(named)}</ul>"
