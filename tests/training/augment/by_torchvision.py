"""Views by torchvision, one after another, to compare with."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from training.augment.augment import Augmentation, Parameters, apply
from training.augment.color import Jitter

ADJUST = (
    functional.adjust_brightness,
    functional.adjust_contrast,
    functional.adjust_saturation,
    functional.adjust_hue,
)
EVERYTHING = Augmentation(jitter_probability=0.9, grayscale=0.3)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(count: int, height: int = 32, width: int = 32) -> Tensor:
    """uint8 [N, H, W, 3]: half of them noise, half of them soft with a strong color."""
    noise = torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=seeded())
    tint = torch.randint(0, 200, (count, 1, 1, 3), dtype=torch.uint8, generator=seeded(1))
    noise[::2] = noise[::2] // 5 + tint[::2]
    return noise


def whole(count: int, size: int, **replaced: Any) -> Parameters:
    """Parameters that change nothing, but for those given."""
    nothing = Parameters(
        crop=torch.tensor([[0, 0, size, size]]).repeat(count, 1),
        flip=None,
        jitter=None,
        grayscale=None,
        blur_sigma=None,
        blur_kernel=0.1,
    )
    return replace(nothing, **replaced)


def jitter(position: Tensor | None = None, **factors: Tensor) -> Jitter:
    count = len(next(iter(factors.values())))
    none: dict[str, Tensor | None] = dict.fromkeys(("brightness", "contrast", "saturation", "hue"))
    return Jitter(
        jittered=torch.ones(count, dtype=torch.bool),
        position=torch.arange(4).repeat(count, 1) if position is None else position,
        **(none | factors),
    )


def expected(image: Tensor, p: Parameters, view: int, size: int) -> Tensor:
    """One view by torchvision, from float32 [3, H, W] in [0, 1]."""
    bicubic = InterpolationMode.BICUBIC
    box = [int(number) for number in p.crop[view]]
    x: Tensor = functional.resized_crop(image, *box, [size, size], bicubic, antialias=True)
    x = x.clamp(0, 1)
    if p.flip is not None and p.flip[view]:
        x = functional.horizontal_flip(x)
    if p.jitter is not None:
        j = p.jitter
        factors = (j.brightness, j.contrast, j.saturation, j.hue)
        for operation in j.position[view].argsort().tolist():
            factor = factors[operation]
            if factor is not None:
                x = ADJUST[operation](x, factor[view].item())
    if p.grayscale is not None and p.grayscale[view]:
        x = functional.rgb_to_grayscale(x, 3)
    if p.blur_sigma is not None and p.blur_sigma[view] > 0:
        kernel = int(size * p.blur_kernel) // 2 * 2 + 1
        x = functional.gaussian_blur(x, [kernel, kernel], [p.blur_sigma[view].item()])
    return x


def assert_as_torchvision(images: Tensor, p: Parameters, size: int, tolerance: float) -> Tensor:
    views = apply(images, p, size)
    assert 0 <= views.min() <= views.max() <= 1
    for view in range(len(p.crop)):
        image = images[view % len(images)].permute(2, 0, 1).float() / 255
        wrong = (views[view] - expected(image, p, view, size)).abs().max()
        assert wrong <= tolerance, f"view {view} is off by {wrong}"
    return views
