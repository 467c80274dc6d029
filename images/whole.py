"""Pictures as training stores them: whole, in their own shape, no larger than crops need."""

import numpy as np
from PIL import Image

from images.decode import open_rgb, to_rgb
from images.items import Content, Pixels
from images.preprocess import Resample

LONGEST = 2
"""Times the short side; of a longer picture the middle is kept."""


def load_whole(content: Content, short_side: int, resample: Resample = "bicubic") -> Pixels:
    """Decode an item's content and shrink it to a short side; it is never enlarged.

    Args:
        content: an image file's bytes, or an array as `to_rgb` takes it.
        short_side: of the result at most, in pixels.
        resample: the filter, antialiased.

    Returns:
        uint8 [H,W,3] in the picture's own aspect ratio, up to 1 : LONGEST. It may be read-only.

    Raises:
        ImageRefused: the content cannot be used.
    """
    image = open_rgb(content) if isinstance(content, bytes) else Image.fromarray(to_rgb(content))
    width, height = image.size
    short = min(width, height)
    across, down = min(width, LONGEST * short), min(height, LONGEST * short)
    left, top = (width - across) // 2, (height - down) // 2
    scale = min(1.0, short_side / short)
    size = (round(across * scale), round(down * scale))
    box = (left, top, left + across, top + down)
    return np.asarray(image.resize(size, Image.Resampling[resample.upper()], box))
