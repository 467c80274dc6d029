"""Which recipe to take when the user names none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from base.errors import ImageRefused
from images.pixels.decode import decode, to_rgb

if TYPE_CHECKING:
    from images.sources.sources import Item, Source

LOOK_AT = 16  # images
SMALL = 64  # px
GRAY = 8  # largest difference between the channels of a pixel that still counts as gray


def choose_recipe(source: Source) -> tuple[str, str]:
    """Look at a few images; returns a recipe's name and the reason for it.

    Gray, small images do badly with color jitter and hard crops, so they have a recipe of their
    own. The paper's recipes take hours on an accelerator and are never chosen unasked.
    """
    step = max(1, len(source) // LOOK_AT)
    looked = [_is_gray_and_small(item) for n, item in enumerate(source) if n % step == 0]
    verdicts = [verdict for verdict in looked if verdict is not None]
    if verdicts and all(verdicts):
        return "grey-cpu", "the pictures are gray and small"
    return "small-cpu", "photographs, minutes on a CPU"


def _is_gray_and_small(item: Item) -> bool | None:
    try:
        content = item.read()
        image = decode(content) if isinstance(content, bytes) else to_rgb(content)
    except ImageRefused:
        return None
    difference = np.ptp(image.astype(np.int16), axis=2).max()
    return bool(difference <= GRAY and max(image.shape[:2]) <= SMALL)
