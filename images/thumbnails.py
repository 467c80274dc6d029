"""Small pictures for the web page and contact sheets."""

import io

from PIL import Image

from images.items import Pixels


def thumbnail(image: Pixels, size: int = 160) -> bytes:
    """Return uint8 [H,W,3] as a WebP (quality 80) whose longer side is at most `size` pixels."""
    picture = Image.fromarray(image)
    picture.thumbnail((size, size), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=80)
    return file.getvalue()
