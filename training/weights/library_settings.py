"""How torchvision and timm prepare the images of a network: their own settings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from torchvision import models

from images.pixels.preprocess import Resample
from training.models.backbones import timm_name
from training.models.encoders import SMALL_IMAGE

if TYPE_CHECKING:
    from training.weights.weight_layouts import Rgb

CROP_SHARE = 0.875  # of the short side that the center crop keeps, as others evaluate on ImageNet


@dataclass(frozen=True, kw_only=True)
class LibrarySettings:
    """What a library says about the images of one of its networks.

    Attributes:
        image_size: side in pixels.
        crop_share: of the short side, what the center crop keeps.
        resample: the filter.
        norm: mean and std of images in [0,1].
    """

    image_size: int
    crop_share: float = CROP_SHARE
    resample: Resample = "bicubic"
    norm: tuple[Rgb, Rgb]


def library_settings(name: str) -> LibrarySettings | None:
    """Return the settings of a network; None: its library states none.

    Args:
        name: torchvision's, or timm's behind "timm:"; a network that can be built.
    """
    theirs = timm_name(name)
    return _of_torchvision(name) if theirs is None else _of_timm(theirs)


def _of_timm(name: str) -> LibrarySettings | None:
    try:
        from timm.models import get_pretrained_cfg
    except ImportError:  # the network cannot be built either, which says so
        return None
    settings = get_pretrained_cfg(name)
    if settings is None or settings.input_size[0] != 3:
        return None
    return LibrarySettings(
        image_size=settings.input_size[1],
        crop_share=settings.crop_pct or CROP_SHARE,
        resample=_resample(settings.interpolation),
        norm=(tuple(settings.mean), tuple(settings.std)),
    )


def _of_torchvision(name: str) -> LibrarySettings | None:
    """Return the settings of the first weights that were published."""
    published: Any = models.get_model_weights(name)
    if not len(published):
        return None
    settings = next(iter(published)).transforms()
    (size,), (resize,) = settings.crop_size, settings.resize_size
    return LibrarySettings(
        image_size=size,
        crop_share=size / resize,
        resample=_resample(settings.interpolation.value),
        norm=(tuple(settings.mean), tuple(settings.std)),
    )


def _resample(name: str) -> Resample:
    return next((filter_ for filter_ in get_args(Resample) if filter_ == name), "bicubic")


def resize_to(size: int, crop_share: float = CROP_SHARE) -> int:
    """Return the short side before the center crop, in pixels; small images are not cropped."""
    return max(size, math.floor(size / crop_share + 0.5)) if size > SMALL_IMAGE else size
