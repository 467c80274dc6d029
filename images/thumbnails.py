"""Small pictures for the web page and contact sheets."""

import io

import numpy as np
from PIL import Image

from images.decode import DEFAULT_MAX_PIXELS, decode, to_rgb
from images.items import Content, Pixels
from images.planes import to_planes
from images.preprocess import PreprocessSpec

TINY = 64  # px


def visible(
    content: Content, spec: PreprocessSpec, *, max_pixels: int = DEFAULT_MAX_PIXELS
) -> Pixels:
    """Return what a person can see of a picture, RGB uint8 [H,W,3].

    Of planes the first three are red, green and blue; the second of two is also the third.

    Raises:
        ImageRefused: the content cannot be used.
    """
    if spec.plain:
        return (
            decode(content, max_pixels=max_pixels)
            if isinstance(content, bytes)
            else to_rgb(content)
        )
    planes = to_planes(content, spec.channels, spec.range, max_pixels=max_pixels)
    return planes[:, :, [0, 1, min(2, spec.channels - 1)]]


def thumbnail(image: Pixels, size: int = 160) -> bytes:
    """Return uint8 [H,W,3] as a WebP whose longer side is at most `size` pixels.

    Quality 80; without loss where the picture is tiny, because a page shows it enlarged.
    """
    picture = Image.fromarray(np.ascontiguousarray(image))
    picture.thumbnail((size, size), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=80, lossless=max(picture.size) <= TINY)
    return file.getvalue()
