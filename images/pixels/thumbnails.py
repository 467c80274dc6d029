"""Small images for the web page and contact sheets."""

import io

import numpy as np
from PIL import Image

from images.items import Content, Pixels
from images.pixels.decode import DEFAULT_MAX_PIXELS, open_scaled, to_rgb
from images.pixels.planes import to_planes
from images.pixels.preprocess import PreprocessSpec

TINY = 64  # px
METHOD = 2  # of WebP, 0 to 6. Of photos at 384 px: 8 ms and 13.0 KB; its default of 4, 14 and 12.6


def thumbnail_of(
    content: Content, spec: PreprocessSpec, size: int, *, max_pixels: int = DEFAULT_MAX_PIXELS
) -> bytes:
    """Return the `thumbnail` of an item's content.

    Raises:
        ImageRefused: the content cannot be used.
    """
    return thumbnail(visible(content, spec, least=size, max_pixels=max_pixels), size)


def visible(
    content: Content,
    spec: PreprocessSpec,
    *,
    least: int | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> Pixels:
    """Return what a person can see of an image, RGB uint8 [H,W,3].

    Of planes the first three are red, green and blue; the second of two is also the third.

    Args:
        content: an image file's bytes, or an array.
        spec: what the encoder makes of it.
        least: pixels of both sides that are enough: a large JPEG is decoded smaller then.
        max_pixels: as in `decode`.

    Raises:
        ImageRefused: the content cannot be used.
    """
    if spec.plain:
        if isinstance(content, bytes):
            return np.asarray(open_scaled(content, least, max_pixels=max_pixels).image)
        return to_rgb(content)
    planes = to_planes(content, spec.channels, spec.range, max_pixels=max_pixels)
    return planes[:, :, [0, 1, min(2, spec.channels - 1)]]


def thumbnail(image: Pixels, size: int = 160) -> bytes:
    """Return uint8 [H,W,3] as a WebP whose longer side is at most `size` pixels.

    Quality 80; without loss where the image is tiny, because a page shows it enlarged.
    """
    shrunk = Image.fromarray(np.ascontiguousarray(image))
    shrunk.thumbnail((size, size), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    shrunk.save(file, "WEBP", quality=80, lossless=max(shrunk.size) <= TINY, method=METHOD)
    return file.getvalue()
