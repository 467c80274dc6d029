"""From any picture to the square the encoder sees: one function for training, export and serving."""

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

from images.decode import DEFAULT_MAX_PIXELS, open_rgb, to_rgb
from images.errors import UsageError
from images.files import sha256_bytes
from images.items import Content, Pixels


@dataclass(frozen=True, kw_only=True)
class PreprocessSpec:
    """How a picture becomes uint8 [size,size,3]."""

    size: int
    resize: Literal["short-side", "stretch"] = "short-side"
    resize_to: int | None = None
    resample: Literal["bicubic", "bilinear", "lanczos"] = "bicubic"
    crop: Literal["center"] = "center"

    @property
    def digest(self) -> str:
        """SHA-256 over the canonical JSON of the fields."""
        return sha256_bytes(json.dumps(self.to_dict(), sort_keys=True).encode())

    def to_dict(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> "PreprocessSpec":
        """The inverse of `to_dict`."""
        try:
            return cls(**d)
        except TypeError as error:
            raise UsageError(str(error)) from error


def preprocess(image: Pixels, spec: PreprocessSpec) -> Pixels:
    """Resize and crop uint8 [H,W,3] to uint8 [size,size,3]."""
    return _fit(Image.fromarray(image), spec)


def load_image(
    content: Content, spec: PreprocessSpec, *, max_pixels: int = DEFAULT_MAX_PIXELS
) -> tuple[Pixels, tuple[int, int]]:
    """Decode and preprocess; returns the square and the original (width, height)."""
    image = (
        open_rgb(content, max_pixels=max_pixels)
        if isinstance(content, bytes)
        else Image.fromarray(to_rgb(content))
    )
    return _fit(image, spec), image.size


def _fit(image: Image.Image, spec: PreprocessSpec) -> Pixels:
    size = spec.size
    to = spec.resize_to or size
    short = min(image.size)
    w, h = (int(to * side / short) for side in image.size)
    if spec.resize == "stretch":
        w = h = size
    resized = image.resize((w, h), Image.Resampling[spec.resample.upper()])
    left, top = round((w - size) / 2), round((h - size) / 2)
    return np.asarray(resized.crop((left, top, left + size, top + size)))
