"""The sweep of `lr_finder.py` as an image and as text."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from base.files import write_bytes_atomic

if TYPE_CHECKING:
    from pathlib import Path

    from training.tuning.lr_finder import Finding

WIDTH, HEIGHT, MARGIN = 900, 480, 64  # px
COLUMNS, ROWS = 64, 12  # characters
INK, FAINT, CURVE, MARK = "#333333", "#cccccc", "#1f6fb4", "#c0392b"


def text_plot(finding: Finding) -> str:
    """Return the smoothed loss over the logarithm of the rate, the suggestion marked below."""
    rates, losses = np.array(finding.sweep.rates), np.array(finding.sweep.smoothed)
    low, high = losses.min(), losses.max()
    grid = [[" "] * COLUMNS for _ in range(ROWS)]
    for column in range(COLUMNS):
        loss = losses[round(column * (len(losses) - 1) / (COLUMNS - 1))]
        row = round((high - loss) / max(high - low, 1e-12) * (ROWS - 1))
        grid[row][column] = "•"
    lines = [
        f"{high if r == 0 else low:8.3f} ┤{''.join(row)}"
        if r in (0, ROWS - 1)
        else f"{'':8} │{''.join(row)}"
        for r, row in enumerate(grid)
    ]
    share = math.log(finding.suggested / rates[0]) / math.log(rates[-1] / rates[0])
    mark = " " * (10 + round(share * (COLUMNS - 1)))
    ends = f"{rates[0]:<.1e}{rates[-1]:>{COLUMNS - 7}.1e}"
    return "\n".join([*lines, f"{mark}▲ {finding.suggested:.2g}", f"{'':10}{ends}"])


def save_plot(finding: Finding, path: Path) -> None:
    """Write the curve as a PNG, atomically."""
    rates = np.log10(finding.sweep.rates)
    raw, smoothed = np.array(finding.sweep.losses), np.array(finding.sweep.smoothed)
    low, high = float(min(raw.min(), smoothed.min())), float(max(raw.max(), smoothed.max()))

    def position(rate: float, loss: float) -> tuple[float, float]:
        x = MARGIN + (rate - rates[0]) / (rates[-1] - rates[0]) * (WIDTH - 2 * MARGIN)
        return x, MARGIN + (high - loss) / max(high - low, 1e-12) * (HEIGHT - 2 * MARGIN)

    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    for power in range(math.ceil(rates[0]), math.floor(rates[-1]) + 1):
        x, _ = position(power, low)
        draw.line([(x, MARGIN), (x, HEIGHT - MARGIN)], fill=FAINT)
        draw.text((x, HEIGHT - MARGIN + 8), f"1e{power}", fill=INK, anchor="ma", font_size=14)
    for loss in np.linspace(low, high, 5):
        _, y = position(rates[0], loss)
        draw.text((MARGIN - 8, y), f"{loss:.2f}", fill=INK, anchor="rm", font_size=14)
    draw.line([position(r, v) for r, v in zip(rates, raw, strict=True)], fill=FAINT)
    draw.line([position(r, v) for r, v in zip(rates, smoothed, strict=True)], fill=CURVE, width=3)
    x, _ = position(math.log10(finding.suggested), low)
    draw.line([(x, MARGIN), (x, HEIGHT - MARGIN)], fill=MARK, width=2)
    title = f"recipe {finding.recipe}, batch {finding.batch_size}: loss over learning rate"
    draw.text((MARGIN, 16), title, fill=INK, font_size=18)
    draw.text((x + 6, MARGIN), f"suggested {finding.suggested:.2g}", fill=MARK, font_size=14)
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    write_bytes_atomic(path, encoded.getvalue())
