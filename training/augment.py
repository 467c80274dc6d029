"""SimCLR's augmentation as batched tensor functions: every image has parameters of its own.

Chen et al. 2020, appendix A (google-research/simclr, data_util.py): random resized crop, flip, colour
jitter in random order, grey, Gaussian blur. `draw` makes the random parameters, `apply` is pixels only,
so that the pixels can be compared with torchvision's at the same parameters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from images.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
CROP_TRIES = 10  # as torchvision's RandomResizedCrop
LUMA = (0.2989, 0.587, 0.114)  # torchvision's weights of red, green and blue in grey


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What is drawn for each image; the fields of a recipe's [augmentation] table.

    The defaults are the paper's for ImageNet (jitter strength s = 1). A probability or strength of 0
    switches an operation off, and it then costs nothing. Raises UsageError for a value out of range.
    """

    crop_area: tuple[float, float] = (0.08, 1.0)  # share of the picture's area
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)  # width / height
    flip: float = 0.5  # probability
    brightness: float = 0.8  # factors are uniform in [max(0, 1 - b), 1 + b]
    contrast: float = 0.8
    saturation: float = 0.8
    hue: float = 0.2  # turns of the colour circle, at most 0.5
    jitter_probability: float = 0.8
    grayscale: float = 0.2  # probability
    blur: float = 0.5  # probability
    blur_sigma: tuple[float, float] = (0.1, 2.0)  # pixels of the view
    blur_kernel: float = 0.1  # share of the view's height

    def __post_init__(self) -> None:
        for name in ("flip", "jitter_probability", "grayscale", "blur"):
            self._check(name, 0.0, 1.0)
        for name in ("brightness", "contrast", "saturation"):
            self._check(name, 0.0, math.inf)
        self._check("hue", 0.0, 0.5)
        self._check("blur_kernel", 0.0, 1.0)
        for name, highest in (
            ("crop_area", 1.0),
            ("crop_aspect", math.inf),
            ("blur_sigma", math.inf),
        ):
            low, high = getattr(self, name)
            if not 0 < low <= high <= highest:
                raise UsageError(
                    f"augmentation.{name} = {(low, high)}: need 0 < low <= high <= {highest}"
                )

    def _check(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        if not low <= value <= high:
            raise UsageError(f"augmentation.{name} = {value}: must lie between {low} and {high}")


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """What was drawn for V views; None where the operation is switched off."""

    crop: Tensor  # int64 [V, 4]: top, left, height, width
    flip: Tensor | None  # bool [V]
    order: Tensor  # int64 [V, 4]: the sequence of BRIGHTNESS, CONTRAST, SATURATION, HUE
    brightness: Tensor | None  # float32 [V], 1 where not jittered
    contrast: Tensor | None
    saturation: Tensor | None
    hue: Tensor | None  # float32 [V] turns, 0 where not jittered
    grayscale: Tensor | None  # bool [V]
    blur_sigma: Tensor | None  # float32 [V], 0 where not blurred
    blur_kernel: float  # share of the view's height


def draw(
    augmentation: Augmentation, count: int, height: int, width: int, generator: torch.Generator
) -> Parameters:
    """Draw the parameters of `count` views of pictures of height x width, on the generator's device."""
    a = augmentation
    u = torch.rand(2 * CROP_TRIES + 16, count, generator=generator, device=generator.device)
    rest = u[2 * CROP_TRIES :]
    jittered = rest[3] < a.jitter_probability

    def factor(strength: float, row: Tensor) -> Tensor | None:
        if not strength or not a.jitter_probability:
            return None
        low = max(0.0, 1.0 - strength)
        return torch.where(jittered, low + row * (1.0 + strength - low), 1.0)

    hue = torch.where(jittered, (2 * rest[7] - 1) * a.hue, 0.0)
    low, high = a.blur_sigma
    sigma = torch.where(rest[13] < a.blur, low + rest[14] * (high - low), 0.0)
    return Parameters(
        crop=_draw_crop(a, u[: 2 * CROP_TRIES], rest[0], rest[1], height, width),
        flip=rest[2] < a.flip if a.flip else None,
        order=rest[8:12].argsort(0).t(),
        brightness=factor(a.brightness, rest[4]),
        contrast=factor(a.contrast, rest[5]),
        saturation=factor(a.saturation, rest[6]),
        hue=hue if a.hue and a.jitter_probability else None,
        grayscale=rest[12] < a.grayscale if a.grayscale else None,
        blur_sigma=sigma if a.blur else None,
        blur_kernel=a.blur_kernel,
    )


def _draw_crop(
    a: Augmentation, u: Tensor, ui: Tensor, uj: Tensor, height: int, width: int
) -> Tensor:
    """torchvision's RandomResizedCrop.get_params for a whole batch -> int64 [V, 4]."""
    area = height * width * (a.crop_area[0] + u[:CROP_TRIES] * (a.crop_area[1] - a.crop_area[0]))
    low, high = (math.log(r) for r in a.crop_aspect)
    aspect = torch.exp(low + u[CROP_TRIES:] * (high - low))
    w = torch.sqrt(area * aspect).round()
    h = torch.sqrt(area / aspect).round()
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = fits.to(torch.uint8).argmax(0, keepdim=True)
    fallback_h, fallback_w = _fallback(a, height, width)
    fits_any = fits.any(0)
    h = torch.where(fits_any, h.gather(0, first)[0], fallback_h)
    w = torch.where(fits_any, w.gather(0, first)[0], fallback_w)
    # the fall-back is centred
    top = torch.where(fits_any, (ui * (height - h + 1)).floor(), (height - fallback_h) // 2)
    left = torch.where(fits_any, (uj * (width - w + 1)).floor(), (width - fallback_w) // 2)
    top, left = torch.minimum(top, height - h), torch.minimum(left, width - w)
    return torch.stack([top, left, h, w], 1).long()


def _fallback(a: Augmentation, height: int, width: int) -> tuple[int, int]:
    """Height and width of the centred crop taken when no try fits."""
    lowest, highest = a.crop_aspect
    if width / height < lowest:
        return round(width / lowest), width
    if width / height > highest:
        return height, round(height * highest)
    return height, width


def apply(images: Tensor, parameters: Parameters, size: int) -> Tensor:
    """Make the views: uint8 [N, H, W, 3] or [N, 3, H, W] -> float32 [V, 3, size, size] in [0, 1].

    V is a multiple of N: view v shows picture v % N. The result is channels_last.
    """
    p = parameters
    x = images if images.shape[1] == 3 else images.permute(0, 3, 1, 2)
    x = x.float() / 255
    x = x.repeat(len(p.crop) // len(x), 1, 1, 1)
    top, left, h, w = p.crop.unbind(1)
    rows = _bicubic(top, h, x.shape[2], size)
    columns = _bicubic(left, w, x.shape[3], size)
    if p.flip is not None:
        columns = torch.where(p.flip[:, None, None], columns.flip(1), columns)
    x = torch.einsum("nip,ncpq,njq->ncij", rows, x, columns).clamp_(0, 1)
    for step in range(4):
        op = p.order[:, step]
        for code, change in ((0, _brightness), (1, _contrast), (2, _saturation), (3, _hue)):
            factor = (p.brightness, p.contrast, p.saturation, p.hue)[code]
            if factor is not None:
                x = torch.where(
                    (op == code)[:, None, None, None], change(x, factor.view(-1, 1, 1, 1)), x
                )
    if p.grayscale is not None:
        x = torch.where(p.grayscale[:, None, None, None], _grey(x), x)
    if p.blur_sigma is not None:
        x = _blur(x, p.blur_sigma, p.blur_kernel)
    return x.contiguous(memory_format=torch.channels_last)


def two_views(
    images: Tensor, augmentation: Augmentation, size: int, generator: torch.Generator
) -> Tensor:
    """Two independent views of each picture: uint8 [N, H, W, 3] -> float32 [2N, 3, size, size].

    The first views of all pictures come first, then the second views in the same order.
    """
    planar = images.shape[1] == 3
    height, width = images.shape[2:] if planar else images.shape[1:3]
    return apply(images, draw(augmentation, 2 * len(images), height, width, generator), size)


def _bicubic(start: Tensor, length: Tensor, source: int, size: int) -> Tensor:
    """Antialiased bicubic weights [V, size, source] that resize [start, start + length) to size."""
    start, length = start[:, None, None].float(), length[:, None, None].float()
    scale = length / size
    i = torch.arange(source, device=start.device) + 0.5
    o = torch.arange(size, device=start.device)[:, None] + 0.5
    t = ((i - start - o * scale) / scale.clamp(min=1)).abs()
    near = (1.5 * t - 2.5) * t * t + 1
    far = ((-0.5 * t + 2.5) * t - 4) * t + 2
    w = torch.where(t < 1, near, torch.where(t < 2, far, 0.0))
    w = torch.where((i > start) & (i < start + length), w, 0.0)
    return w / w.sum(2, keepdim=True)


def _grey(x: Tensor) -> Tensor:
    r, g, b = LUMA
    return r * x[:, :1] + g * x[:, 1:2] + b * x[:, 2:]


def _brightness(x: Tensor, f: Tensor) -> Tensor:
    return (x * f).clamp(0, 1)


def _contrast(x: Tensor, f: Tensor) -> Tensor:
    return (x * f + (1 - f) * _grey(x).mean((2, 3), keepdim=True)).clamp(0, 1)


def _saturation(x: Tensor, f: Tensor) -> Tensor:
    return (x * f + (1 - f) * _grey(x)).clamp(0, 1)


def _hue(x: Tensor, turns: Tensor) -> Tensor:
    r, g, b = x.unbind(1)
    low, high = x.amin(1), x.amax(1)
    chroma = high - low
    h = ((high - 2 * low) + g + b - r) / chroma.clamp(min=1e-12)
    h = torch.copysign(h, g - b) + 6 * turns[:, 0]
    h = h - 6 * torch.round(h / 6)
    red = (2 - h.abs()).clamp(0, 1)
    green = ((h + 1).abs() - 1).clamp(0, 1)
    blue = ((h - 1).abs() - 1).clamp(0, 1)
    return low[:, None] + chroma[:, None] * torch.stack([red, green, blue], 1)


def _blur(x: Tensor, sigma: Tensor, share: float) -> Tensor:
    n, c, height, width = x.shape
    radius = int(height * share) // 2
    t = torch.arange(-radius, radius + 1, device=x.device)
    k = torch.exp(-0.5 * (t / sigma.clamp(min=1e-3)[:, None]) ** 2)
    k = (k / k.sum(1, keepdim=True)).repeat_interleave(c, 0)
    y = functional.pad(x, [radius] * 4, mode="reflect").reshape(1, n * c, height + 2 * radius, -1)
    y = functional.conv2d(y, k[:, None, :, None], groups=n * c)
    return functional.conv2d(y, k[:, None, None, :], groups=n * c).view_as(x)
