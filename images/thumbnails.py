"""Small pictures for the web page and contact sheets."""

import io

from PIL import Image

from images.items import Pixels

TINY = 64  # px


def thumbnail(image: Pixels, size: int = 160) -> bytes:
    """Return uint8 [H,W,3] as a WebP whose longer side is at most `size` pixels.

    Quality 80; without loss where the picture is tiny, because a page shows it enlarged.
    """
    picture = Image.fromarray(image)
    picture.thumbnail((size, size), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=80, lossless=max(picture.size) <= TINY)
    return file.getvalue()
