"""SimCLR's augmentation for whole batches, with parameters of its own for every view.

Chen et al. 2020, appendix A (google-research/simclr, data_util.py): random resized crop, flip,
color jitter in random order, gray, Gaussian blur. `draw` makes the random parameters and `apply`
the pixels, so that the pixels can be compared with torchvision's for the same parameters. Nothing
loops over images, and on a CUDA device nothing makes the host wait.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from base.errors import UsageError
from training.augment import color, per_image, resample
from training.augment.color import Jitter
from training.augment.per_image import PerImage, selected_indices

CROP_TRIES = 10  # as torchvision's RandomResizedCrop

# Numbers of a view or image (side * side * channels) worked on at a time on a CPU. Smaller: the
# fixed cost of each operation weighs more. Larger: what is allocated for it no longer fits the L3
# cache, and the C library returns it to the system between uses, to be zeroed again page by page.
CPU_BLOCK = 1_200_000

# Numbers of an image from which on a CPU copies its box rather than work on all of it. Measured:
# 9 % less time for views of 224 px from 256, as much at 96 px, more below.
LARGE = 160 * 160 * 3


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What is drawn for each view: the [augmentation] table of a recipe.

    The defaults are the paper's for ImageNet (strength s = 1). A probability or strength of 0
    switches an operation off; it then costs nothing. Raises UsageError for a value out of range.
    """

    crop_area: tuple[float, float] = (0.08, 1.0)  # share of the image's area
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)  # width / height
    flip: float = 0.5  # probability
    brightness: float = 0.8  # strength b: factors are uniform in [max(0, 1 - b), 1 + b]
    contrast: float = 0.8  # likewise
    saturation: float = 0.8  # likewise
    hue: float = 0.2  # turns of the color circle: shifts are uniform in [-hue, hue]
    jitter_probability: float = 0.8  # of the four above together
    grayscale: float = 0.2  # probability
    blur: float = 0.5  # probability
    blur_sigma: tuple[float, float] = (0.1, 2.0)  # pixels of the view
    blur_kernel: float = 0.1  # share of the view's height

    def __post_init__(self) -> None:
        for name in ("flip", "jitter_probability", "grayscale", "blur", "blur_kernel"):
            self._check(name, 1.0)
        for name in ("brightness", "contrast", "saturation"):
            self._check(name, math.inf)
        self._check("hue", 0.5)
        self._check_range("crop_area", 1.0)
        self._check_range("crop_aspect", math.inf)
        self._check_range("blur_sigma", math.inf)

    def _check(self, name: str, highest: float) -> None:
        value = getattr(self, name)
        if not 0 <= value <= highest:
            limits = "must not be negative" if highest == math.inf else f"must be in [0, {highest}]"
            raise UsageError(f"augmentation.{name} = {value}: {limits}")

    def _check_range(self, name: str, highest: float) -> None:
        low, high = getattr(self, name)
        if not 0 < low <= high <= highest:
            limit = "" if highest == math.inf else f" <= {highest}"
            raise UsageError(f"augmentation.{name} = [{low}, {high}]: needs 0 < low <= high{limit}")


@dataclass(frozen=True, kw_only=True)
class Parameters(PerImage):
    """What was drawn for V views. None: the operation is switched off."""

    crop: Tensor  # int64 [V, 4]: top, left, height, width in pixels of the image
    flip: Tensor | None  # bool [V]
    jitter: Jitter | None
    grayscale: Tensor | None  # bool [V]
    blur_sigma: Tensor | None  # float32 [V], pixels; 0: no blur
    blur_kernel: float  # share of the view's height


def two_views(
    images: Tensor, augmentation: Augmentation, size: int, generator: torch.Generator
) -> Tensor:
    """Two independent views of each image: [N, H, W, 3] -> float32 [2N, 3, size, size].

    The first views of all images come first, then the second views in the same order; see
    `apply` for the images. The generator is on their device.
    """
    height, width = _channels_last(images).shape[1:3]
    return apply(images, draw(augmentation, 2 * len(images), height, width, generator), size)


def draw(
    augmentation: Augmentation,
    count: int,
    height: int | Tensor,
    width: int | Tensor,
    generator: torch.Generator,
) -> Parameters:
    """Draw the parameters of `count` views of images of height x width pixels.

    Both may be float [N] instead, the sizes of N images that are shown in turns as in `apply`.
    They are on the generator's device and depend on its state alone. Each operation has random
    numbers of its own: switching one off changes nothing in the others.
    """
    a = augmentation
    # Rows 15 and 16 are not read any more: without them every other number, and so every view of a
    # recipe and seed, would change, while the recipe's digest stayed the same.
    u = torch.rand(2 * CROP_TRIES + 17, count, generator=generator, device=generator.device)
    sigma = torch.where(u[4] < a.blur, _uniform(u[5], *a.blur_sigma), 0.0) if a.blur else None
    return Parameters(
        crop=_draw_crop(a, u[17:], u[:2], *(_of_views(side, count, u) for side in (height, width))),
        flip=u[2] < a.flip if a.flip else None,
        jitter=_draw_jitter(a, u[6:15]),
        grayscale=u[3] < a.grayscale if a.grayscale else None,
        blur_sigma=sigma,
        blur_kernel=a.blur_kernel,
    )


def _draw_jitter(a: Augmentation, u: Tensor) -> Jitter | None:
    """From u [9, V] uniform in [0, 1): whether, in which order, four factors."""
    if not a.jitter_probability or not (a.brightness or a.contrast or a.saturation or a.hue):
        return None
    jittered = u[0] < a.jitter_probability

    def factor(row: Tensor, strength: float) -> Tensor | None:
        drawn = _uniform(row, max(0.0, 1.0 - strength), 1.0 + strength)
        return torch.where(jittered, drawn, 1.0) if strength else None

    return Jitter(
        jittered=jittered,
        position=u[1:5].t().argsort(1),
        brightness=factor(u[5], a.brightness),
        contrast=factor(u[6], a.contrast),
        saturation=factor(u[7], a.saturation),
        hue=torch.where(jittered, _uniform(u[8], -a.hue, a.hue), 0.0) if a.hue else None,
    )


def _uniform(u: Tensor, low: float, high: float) -> Tensor:
    """From [0, 1) to [low, high)."""
    return u * (high - low) + low


def _of_views(side: int | Tensor, views: int, like: Tensor) -> Tensor:
    """Lengths of sides for each view, float [V], or a single one for all."""
    if isinstance(side, Tensor):
        return side.to(like).repeat(views // max(1, len(side)))
    return like.new_full((), side)


def _draw_crop(a: Augmentation, u: Tensor, corner: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """Draw boxes as torchvision's RandomResizedCrop does, without asking which try succeeded.

    u [2 * CROP_TRIES, V] (areas, then aspects) and corner [2, V] are uniform in [0, 1), height and
    width [V] or single; returns int64 [V, 4]: top, left, height, width.
    """
    areas = _uniform(u[:CROP_TRIES], *a.crop_area) * (height * width)
    aspects = _uniform(u[CROP_TRIES:], *map(math.log, a.crop_aspect)).exp_()
    widths = (areas * aspects).sqrt_().round_()
    heights = (areas / aspects).sqrt_().round_()
    fits = (widths >= 1) & (widths <= width) & (heights >= 1) & (heights <= height)
    any_fits, first = fits.byte().max(0)  # the first of equal values
    any_fits, first = any_fits.bool(), first[None]
    middle_height, middle_width = _whole_or_middle(a.crop_aspect, height, width)
    h = torch.where(any_fits, heights.gather(0, first)[0], middle_height)
    w = torch.where(any_fits, widths.gather(0, first)[0], middle_width)
    top = torch.where(any_fits, corner[0] * (height - h + 1), (height - h) / 2).floor()
    left = torch.where(any_fits, corner[1] * (width - w + 1), (width - w) / 2).floor()
    # float32 may round a corner just below the limit up to it
    top, left = torch.minimum(top, height - h), torch.minimum(left, width - w)
    return torch.stack([top, left, h, w], 1).long()


def _whole_or_middle(
    aspects: tuple[float, float], height: Tensor, width: Tensor
) -> tuple[Tensor, Tensor]:
    """Height and width of the crop where no try fits: the most that keeps to the aspects."""
    lowest, highest = aspects
    h = torch.where(width < lowest * height, (width / lowest).round().clamp(min=1), height)
    w = torch.where(width > highest * height, (height * highest).round().clamp(min=1), width)
    return h, w


def apply(images: Tensor, parameters: Parameters, size: int) -> Tensor:
    """Make the views that were drawn.

    Args:
        images: uint8 (0-255) or float32 (0-1), [N, H, W, 3] or [N, 3, H, W], or with one channel
            for gray images, or [N, H, W, C], which saturation, hue and grayscale leave alone; on
            the parameters' device. Only read.
        parameters: for V views, V a multiple of N: view v shows image v % N.
        size: pixels of a view's side.

    Returns:
        float32 [V, C, size, size] in [0, 1], channels_last; C is 3 for gray images.

    Raises:
        ValueError: images of another shape, or V is not a multiple of N.
    """
    images = _channels_last(images)
    p, count = parameters, len(parameters.crop)
    if count % max(1, len(images)):
        raise ValueError(f"{count} views of {len(images)} pictures: not a multiple")
    if images.shape[3] == 3 and _are_gray(images):
        images = images[:, :, :, :1]
    if images.shape[3] != 3:
        p = replace(p, jitter=p.jitter and p.jitter.without_color(), grayscale=None)
    depth = 3 if images.shape[3] == 1 else images.shape[3]
    views = torch.empty(count, size, size, depth, device=images.device)
    image = torch.arange(count, device=images.device) % max(1, len(images))
    blocks = 1
    if per_image.host_can_look(images):
        values = max(math.prod(images.shape[1:]), size * size * images.shape[3])
        blocks = max(1, math.ceil(count * values / CPU_BLOCK))
    step = max(1, math.ceil(count / blocks))
    for start in range(0, count, step):
        block = slice(start, start + step)
        _make(images, image[block], p[block], views[block])
    return views.permute(0, 3, 1, 2)


def _make(images: Tensor, image: Tensor, p: Parameters, out: Tensor) -> None:
    """Write the views of images[image] into out [V, size, size, C]."""
    n, size = out.shape[:2]
    order = torch.arange(n, device=out.device)  # in which the views are worked on
    if p.jitter is not None:
        order = p.jitter.hue_before().argsort()
    p = p[order]
    image = image[order]
    if per_image.host_can_look(images) and images[0].numel() >= LARGE:
        sources, crop = _cut_out(images, image, p.crop)
    else:
        sources, crop = images.index_select(0, image), p.crop
    planes = resample.crop_resize(sources, crop, p.flip, size)
    if p.jitter is not None:
        color.jitter_(planes.flatten(2), p.jitter)
    if p.grayscale is not None:
        color.to_gray_(planes.flatten(2), p.grayscale)
    back = order.argsort()  # where each view is found
    if p.blur_sigma is None:
        _interleave(planes.index_select(1, back).transpose(2, 3), out)
        return
    blurred = selected_indices(p.blur_sigma > 0)
    kernel = int(size * p.blur_kernel) // 2 * 2 + 1
    soft = resample.gaussian_blur(planes, blurred, p.blur_sigma, kernel)
    both = out.new_empty(n + len(blurred), *out.shape[1:])  # all views sharp, then the blurred
    _interleave(planes.transpose(2, 3), both[:n])
    _interleave(soft, both[n:])
    positions = torch.arange(n + len(blurred), device=out.device)
    back = positions[:n].index_copy(0, blurred, positions[n:])[back]
    torch.index_select(both, 0, back, out=out)


def _cut_out(images: Tensor, image: Tensor, crop: Tensor) -> tuple[Tensor, Tensor]:
    """Return the boxes [V, 4] of some images in the upper left corners of equal areas.

    Returns the areas [V, H, W, C], anything outside the boxes, and where the boxes are in them.
    """
    height, width = crop[:, 2:].amax(0).tolist()
    areas = images.new_empty(len(crop), height, width, images.shape[3])
    for area, number, (top, left, h, w) in zip(
        areas.unbind(), image.tolist(), crop.tolist(), strict=True
    ):
        area[:h, :w].copy_(images[number, top : top + h, left : left + w])
    return areas, torch.cat([torch.zeros_like(crop[:, :2]), crop[:, 2:]], 1)


def _interleave(planes: Tensor, out: Tensor) -> None:
    """Planes [C, N, S, S] into out [N, S, S, C]; a single plane serves all channels."""
    for channel in range(out.shape[3]):  # measured: faster than one copy of all
        out[..., channel].copy_(planes[channel % len(planes)])


def _are_gray(images: Tensor) -> bool:
    """Whether the three channels are known to be equal; one look settles it where they are not."""
    if not per_image.host_can_look(images):
        return False
    red, green, blue = images.unbind(3)
    return all(
        torch.equal(red[block], other[block])
        for block in (slice(1), slice(None))
        for other in (green, blue)
    )


def _channels_last(images: Tensor) -> Tensor:
    """Return a view [N, H, W, C] of images in either layout."""
    if images.ndim != 4:
        raise ValueError(f"images of shape {tuple(images.shape)}: need [N, H, W, C]")
    planes_first = images.shape[1] in {1, 3} and images.shape[3] not in {1, 3}
    return images.permute(0, 2, 3, 1) if planes_first else images
