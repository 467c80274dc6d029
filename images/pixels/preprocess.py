"""From any image to the square that the encoder sees: one way for training, export and serving.

`PreprocessSpec` says how; its digest travels with the encoder file, so that an image is never
prepared differently from what the encoder was trained on.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from math import isfinite
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from base.errors import UsageError
from base.files import sha256_bytes
from base.text import did_you_mean
from images.items import Content, Pixels
from images.pixels.decode import DEFAULT_MAX_PIXELS, Opened, open_scaled, to_rgb
from images.pixels.planes import to_planes

Resize = Literal["short-side", "stretch"]
Resample = Literal["bicubic", "bilinear", "lanczos"]
Crop = Literal["center"]

RGB = 3
MAX_CHANNELS = 64

SCALED_DECODE = 4
"""The `scaled_decode` that keeps embeddings. Cosine to those of whole decoding, the worst of 900 to
1,900 photos, trained encoder of 64 px: 0.9998 where 4 times the length is left, 0.998 with 3, 0.991
with 2; the medians are 0.99999, 0.99999 and 0.99993."""

VERSION = 1
"""Goes into the digest: raise it when the same fields come to mean other pixels."""


@dataclass(frozen=True, kw_only=True)
class PreprocessSpec:
    """How an image becomes uint8 [size,size,channels].

    Attributes:
        size: side of the square, in pixels.
        resize: `short-side` scales the shorter side to `resize_to` and keeps the shape, then crops;
            `stretch` scales both sides to `size`.
        resize_to: length of the shorter side before the crop, at least `size`; None means `size`.
        resample: the filter, antialiased when it shrinks.
        crop: `center`.
        channels: 3 means RGB; another number, planes as they are (`images.pixels.planes`).
        range: the values that become 0 and 255; None means all that the element type holds.
        scaled_decode: JPEGs are decoded at 1/2, 1/4 or 1/8 (a short DCT instead of a filter: other
            pixels, much faster), as long as each side keeps this many times the length it is scaled
            to; None means that they are decoded whole.

    Raises:
        UsageError: a value out of range; the message names the field.
    """

    size: int
    resize: Resize = "short-side"
    resize_to: int | None = None
    resample: Resample = "bicubic"
    crop: Crop = "center"
    channels: int = RGB
    range: tuple[float, float] | None = None
    scaled_decode: int | None = None

    def __post_init__(self) -> None:
        for name, choices in (("resize", Resize), ("resample", Resample), ("crop", Crop)):
            _check_choice(name, getattr(self, name), get_args(choices))
        if self.resize_to is None:  # so that equal specs have equal digests
            object.__setattr__(self, "resize_to", self.size)
        _check_length("size", self.size, least=1)
        _check_length("resize_to", self.resize_to, least=self.size)
        if self.resize == "stretch" and self.resize_to != self.size:
            raise UsageError(f"resize_to is {self.resize_to}, but stretch scales to size; drop it")
        check_channels(self.channels)
        if self.range is not None:
            object.__setattr__(self, "range", checked_range(self.range))
        if self.scaled_decode is not None:
            _check_length("scaled_decode", self.scaled_decode, least=1)
            if not self.plain:
                raise UsageError("scaled_decode is for RGB pictures of 8 bits; drop it")

    @property
    def plain(self) -> bool:
        """Return whether images are made RGB with values as their files mean them."""
        return self.channels == RGB and self.range is None

    @property
    def least_side(self) -> int | None:
        """Pixels that a JPEG's shorter side keeps when it is decoded; None: all of them."""
        to = self.resize_to or self.size
        return None if self.scaled_decode is None else self.scaled_decode * to

    @property
    def digest(self) -> str:
        """SHA-256 (hexadecimal) over the fields and VERSION as canonical JSON."""
        content = {"version": VERSION, **self.to_dict()}
        return sha256_bytes(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, ready for JSON; those added later only where they are set."""
        settings = asdict(self)
        if self.channels == RGB:
            del settings["channels"]
        if self.scaled_decode is None:
            del settings["scaled_decode"]
        if self.range is None:
            del settings["range"]
        else:
            settings["range"] = list(self.range)
        return settings

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> "PreprocessSpec":
        """Build a spec from what `to_dict` returned.

        Raises:
            UsageError: an unknown key (its nearest neighbor is named), a missing one, a bad value.
        """
        keys = tuple(field.name for field in fields(cls))
        for key in d:
            _check_choice("key of a preprocessing spec", key, keys)
        if "size" not in d:
            raise UsageError("a preprocessing spec needs the key size")
        return cls(**d)


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"unknown {name} {value!r}{did_you_mean(str(value), choices)}")


def _check_length(name: str, value: object, least: int) -> None:
    if type(value) is not int or value < least:
        raise UsageError(f"{name} is {value!r}; give a whole number of pixels, at least {least}")


def check_channels(channels: object) -> None:
    """Raise UsageError for a number of channels that no image has."""
    if type(channels) is not int or not 2 <= channels <= MAX_CHANNELS:
        message = f"channels is {channels!r}; give 2 to {MAX_CHANNELS}, gray pictures have 3 alike"
        raise UsageError(message)


def checked_range(value: object) -> tuple[float, float]:
    """Return a range as two numbers; raise UsageError where it is not one."""
    if isinstance(value, list | tuple) and len(value) == 2:
        low, high = value
        numbers = all(type(number) in {int, float} and isfinite(number) for number in value)
        if numbers and low < high:
            return float(low), float(high)
    raise UsageError(f"range is {value!r}; give two numbers, the lower first, as in [0, 4095]")


def preprocess(image: Pixels, spec: PreprocessSpec) -> Pixels:
    """Scale and crop an image.

    Args:
        image: uint8 [H,W,C].
        spec: what to make of it.

    Returns:
        uint8 [size,size,C], contiguous; `image` itself if it has that shape. It may be read-only.
    """
    height, width = image.shape[:2]
    if width == height == spec.size == spec.resize_to:
        return np.ascontiguousarray(image)
    return by_plane(image, lambda plane: _fit(Opened(plane, plane.size), spec))


def by_plane(image: Pixels, resize: Callable[[Image.Image], Pixels]) -> Pixels:
    """Return what `resize` makes of an RGB image, or of each plane of another, uint8 [H,W,C]."""
    if image.shape[2] == RGB:
        return resize(Image.fromarray(image))
    planes = np.moveaxis(image, 2, 0)
    return np.stack([resize(Image.fromarray(np.ascontiguousarray(p))) for p in planes], axis=2)


def load_image(
    content: Content, spec: PreprocessSpec, *, max_pixels: int = DEFAULT_MAX_PIXELS
) -> tuple[Pixels, tuple[int, int]]:
    """Decode an item's content and preprocess it.

    Gives what `preprocess(decode(content))` gives, faster, unless a scaled decode is asked for.

    Args:
        content: an image file's bytes, or an array as `to_rgb` or `to_planes` takes it.
        spec: what to make of it.
        max_pixels: as in `open_scaled`: a JPEG of more is decoded smaller where that is enough.

    Returns:
        uint8 [size,size,channels], and (width, height) of the upright original.

    Raises:
        ImageRefused: the content cannot be used.
    """
    if not spec.plain:
        planes = to_planes(content, spec.channels, spec.range, max_pixels=max_pixels)
        return preprocess(planes, spec), (planes.shape[1], planes.shape[0])
    if isinstance(content, bytes):
        opened = open_scaled(
            content,
            spec.least_side,
            max_pixels=max_pixels,
            least_oversize=SCALED_DECODE * (spec.resize_to or spec.size),
        )
        return _fit(opened, spec), opened.size
    pixels = to_rgb(content)
    return preprocess(pixels, spec), (pixels.shape[1], pixels.shape[0])


def _fit(opened: Opened, spec: PreprocessSpec) -> Pixels:
    """Resample only what the crop keeps: less work, and a hair-thin image costs no more.

    Sizes and offsets are those of scaling the whole and then cropping. So are the pixels, up to
    rounding, and where a filter overshoots: Pillow takes the cheaper of the two axes first. A
    scaled decode changes neither sizes nor offsets, though it rounds the image's own sides up.
    """
    image, (width, height), scale = opened.image, opened.size, opened.scale
    at_left, at_top = opened.corner
    scaled_width, scaled_height = _scaled_size(width, height, spec)
    left, top = round((scaled_width - spec.size) / 2), round((scaled_height - spec.size) / 2)
    box = (
        at_left + left * width / scaled_width / scale,
        at_top + top * height / scaled_height / scale,
        at_left + (left + spec.size) * width / scaled_width / scale,
        at_top + (top + spec.size) * height / scaled_height / scale,
    )
    resample = Image.Resampling[spec.resample.upper()]
    if spec.resize == "stretch" and width < spec.size < height:
        # Before version 13 Pillow widens first: a strip 2 wide and millions high would explode.
        image = image.resize((width, spec.size), resample)
        box = (0, 0, width, spec.size)
    return np.asarray(image.resize((spec.size, spec.size), resample, box))


def _scaled_size(width: int, height: int, spec: PreprocessSpec) -> tuple[int, int]:
    """Return (width, height) before the crop; the longer side is cut to whole pixels."""
    if spec.resize == "stretch":
        return spec.size, spec.size
    short, to = min(width, height), spec.resize_to or spec.size
    return to * width // short, to * height // short
