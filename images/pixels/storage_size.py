"""Images as training stores them: whole, in their own shape, no larger than crops need."""

import numpy as np
from PIL import Image

from images.items import Content, Pixels
from images.pixels.decode import open_rgb, to_rgb
from images.pixels.planes import to_planes
from images.pixels.preprocess import PreprocessSpec, by_plane

LONGEST = 2
"""Times the short side; of a longer image the middle is kept."""


def load_whole(content: Content, spec: PreprocessSpec) -> Pixels:
    """Decode an item's content and shrink it to a short side; it is never enlarged.

    Args:
        content: as in `images.pixels.preprocess.load_image`.
        spec: its `size` is the short side of the result at most; the filter, channels and range.

    Returns:
        uint8 [H,W,C] in the image's own aspect ratio, up to 1 : LONGEST. It may be read-only.

    Raises:
        ImageRefused: the content cannot be used.
    """
    if not spec.plain:
        planes = to_planes(content, spec.channels, spec.range)
        return by_plane(planes, lambda plane: _shrink(plane, spec))
    image = open_rgb(content) if isinstance(content, bytes) else Image.fromarray(to_rgb(content))
    return _shrink(image, spec)


def _shrink(image: Image.Image, spec: PreprocessSpec) -> Pixels:
    width, height = image.size
    short = min(width, height)
    across, down = min(width, LONGEST * short), min(height, LONGEST * short)
    left, top = (width - across) // 2, (height - down) // 2
    scale = min(1.0, spec.size / short)
    size = (round(across * scale), round(down * scale))
    box = (left, top, left + across, top + down)
    return np.asarray(image.resize(size, Image.Resampling[spec.resample.upper()], box))
