"""A contact sheet: queries beside their nearest neighbors, as one PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from base.files import atomic_write

Block = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]

TILE, STEP, HEAD, MARGIN = 84, 92, 44, 124  # px
QUERY, SAME_KIND, OTHER_KIND = "black", "#2a9d4a", "#d62828"


def draw_neighbors(path: Path, names: Sequence[str], blocks: Mapping[str, Block]) -> None:
    """Draw blocks side by side, in each a query per line and its neighbors, framed by kind.

    Args:
        path: the PNG to write.
        names: a name for each of the R lines.
        blocks: title -> (queries uint8 [R,S,S,3], neighbors uint8 [R,K,S,S,3], whether a
            neighbor is of its query's kind bool [R,K]).
    """
    width = max(neighbors.shape[1] + 1 for _, neighbors, _ in blocks.values()) * STEP + STEP // 2
    size = (MARGIN + len(blocks) * width, HEAD + len(names) * STEP)
    sheet = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=16)
    for line, name in enumerate(names):
        pen.text((12, HEAD + line * STEP + TILE // 2 - 10), name, "black", font)
    for column, (title, (queries, neighbors, same)) in enumerate(blocks.items()):
        left = MARGIN + column * width
        pen.text((left, 12), f"{title}, then its nearest in the collection", "black", font)
        for line, query in enumerate(queries):
            top = HEAD + line * STEP
            _paste(sheet, pen, (left, top), query, QUERY)
            for rank, pixels in enumerate(neighbors[line]):
                corner = (left + STEP // 8 + (rank + 1) * STEP, top)
                _paste(sheet, pen, corner, pixels, SAME_KIND if same[line, rank] else OTHER_KIND)
    with atomic_write(path) as file:
        sheet.save(file, "PNG", optimize=True)


def _paste(
    sheet: Image.Image,
    pen: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    pixels: NDArray[np.uint8],
    frame: str,
) -> None:
    x, y = corner
    pen.rectangle((x - 3, y - 3, x + TILE + 2, y + TILE + 2), frame)
    sheet.paste(Image.fromarray(pixels).resize((TILE, TILE), Image.Resampling.BICUBIC), corner)
