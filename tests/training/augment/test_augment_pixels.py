"""What `apply` makes of given parameters, image by image against torchvision's functional."""

from typing import Any

import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from tests.training.augment.by_torchvision import (
    EVERYTHING,
    assert_as_torchvision,
    jitter,
    random_images,
    seeded,
    whole,
)
from training.augment.augment import Augmentation, apply, draw
from training.augment.color import shift_hue_


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(32, 32, 32), (28, 28, 32), (96, 96, 32), (40, 61, 33), (23, 9, 16), (1, 1, 8), (5, 70, 1)],
)
def test_all_operations_together(height: int, width: int, size: int) -> None:
    p = draw(EVERYTHING, 40, height, width, seeded())
    assert_as_torchvision(random_images(20, height, width), p, size, 1e-5)


def test_large_images() -> None:
    p = draw(EVERYTHING, 4, 300, 400, seeded(3))
    # where positions reach 400, float32 itself leaves an error of 3e-5 pixels
    assert_as_torchvision(random_images(2, 300, 400), p, 224, 2e-4)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (75, 40)])
def test_crops_agree_with_torchvisions_on_uint8(height: int, width: int) -> None:
    # not so bright or dark that torchvision clips between the two passes, as only uint8 needs
    images = random_images(32, height, width) // 3 + 80
    crop = draw(EVERYTHING, 32, height, width, seeded()).crop
    views = apply(images, whole(32, 0, crop=crop), 32)
    for image, box, view in zip(images, crop.tolist(), views, strict=True):
        theirs = functional.resized_crop(
            image.permute(2, 0, 1), *box, [32, 32], InterpolationMode.BICUBIC, antialias=True
        )
        assert (theirs / 255 - view).abs().max() <= 1.5 / 255


@pytest.mark.parametrize("box", [[0, 0, 3, 2], [29, 30, 3, 2], [5, 7, 1, 1], [0, 31, 32, 1]])
def test_small_and_narrow_crops(box: list[int]) -> None:
    p = whole(8, 0, crop=torch.tensor([box]).repeat(8, 1))
    assert_as_torchvision(random_images(8), p, 32, 1e-5)


def test_identity_gives_the_image() -> None:
    images = random_images(8)
    one, zero = torch.ones(8), torch.zeros(8)
    neutral = jitter(brightness=one, contrast=one, saturation=one, hue=zero)
    no = torch.zeros(8, dtype=torch.bool)
    for p in (
        whole(8, 32),
        whole(8, 32, jitter=neutral, flip=no, grayscale=no, blur_sigma=zero),
    ):
        torch.testing.assert_close(
            apply(images, p, 32), images.permute(0, 3, 1, 2) / 255, atol=1e-6, rtol=0
        )


def test_flip_mirrors_left_and_right() -> None:
    images = random_images(4)
    views = apply(images, whole(4, 32, flip=torch.tensor([True, False, True, False])), 32)
    plain = apply(images, whole(4, 32), 32)
    assert torch.equal(views[0::2], plain[0::2].flip(3))
    assert torch.equal(views[1::2], plain[1::2])


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_factors_from_nothing_to_much(name: str) -> None:
    factors = torch.tensor([0.0, 0.2, 0.7, 1.0, 1.3, 1.8, 3.0, 10.0])
    p = whole(8, 32, jitter=jitter(**{name: factors}))
    assert_as_torchvision(random_images(8), p, 32, 1e-5)


@pytest.mark.parametrize("turns", [-0.5, -1 / 3, -1 / 6, -0.01, 0.0, 0.1, 0.25, 1 / 3, 0.4999, 0.5])
def test_hue_of_every_corner_of_the_color_cube(turns: float) -> None:
    levels = torch.tensor([0, 1, 127, 128, 254, 255], dtype=torch.uint8)
    cube = torch.cartesian_prod(levels, levels, levels)  # with grays, and ties of two channels
    images = torch.cat([cube, cube[:40]]).view(1, 16, 16, 3)
    p = whole(1, 16, jitter=jitter(hue=torch.tensor([turns])))
    assert_as_torchvision(images, p, 16, 1e-5)


def test_hue_never_leaves_the_range() -> None:
    planes = torch.rand(3, 50, 4000, generator=seeded())
    planes[0, ::2], planes[1, ::3], planes[2, 1::2] = 0.0, 1.0, 1.0
    shift_hue_(planes, torch.linspace(-0.5, 0.5, 50)[:, None])
    assert 0 <= planes.min() <= planes.max() <= 1


def test_gray_images_have_three_equal_channels() -> None:
    gray = torch.tensor([True, False, True, True])
    views = assert_as_torchvision(random_images(4), whole(4, 32, grayscale=gray), 32, 1e-5)
    assert torch.equal(views[gray, 0], views[gray, 2])
    assert not torch.equal(views[1, 0], views[1, 2])


@pytest.mark.parametrize("share", [0.0, 0.1, 0.35, 1.0])
@pytest.mark.parametrize("size", [8, 33])
def test_blur_has_sigmas_of_its_own_and_reflects_at_the_edges(share: float, size: int) -> None:
    sigma = torch.tensor([0.1, 0.5, 0.0, 2.0, 9.0])
    p = whole(5, size, blur_sigma=sigma, blur_kernel=share)
    assert_as_torchvision(random_images(5, size, size), p, size, 1e-5)


def test_each_operation_clips() -> None:
    images = torch.full((1, 2, 2, 3), 51, dtype=torch.uint8)  # 0.2
    images[:, 1] = 204  # 0.8
    two, half = torch.tensor([2.0]), torch.tensor([0.5])
    brightness_first = whole(1, 2, jitter=jitter(brightness=two, contrast=half))
    view = apply(images, brightness_first, 2)[0, 0, :, 0]
    # 0.4 and 1.0, mean 0.7; unclipped it would be 0.4 and 1.6, mean 1.0
    torch.testing.assert_close(view, torch.tensor([0.55, 0.85]), atol=2e-4, rtol=0)
    last = torch.tensor([[1, 0, 2, 3]])
    contrast_first = whole(1, 2, jitter=jitter(last, brightness=two, contrast=half))
    view = apply(images, contrast_first, 2)[0, 0, :, 0]
    torch.testing.assert_close(view, torch.tensor([0.7, 1.0]), atol=2e-4, rtol=0)


def test_every_order_is_kept() -> None:
    orders = torch.cartesian_prod(*[torch.arange(4)] * 4)
    positions = orders[orders.sort(1).values.eq(torch.arange(4)).all(1)]
    assert len(positions) == 24
    half = {name: torch.full((24,), 0.6) for name in ("contrast", "saturation")}
    replaced = jitter(
        positions, brightness=torch.full((24,), 1.9), hue=torch.full((24,), 0.2), **half
    )
    views = assert_as_torchvision(random_images(1), whole(24, 32, jitter=replaced), 32, 1e-5)
    differ = (views[:, None] - views[None]).abs().amax((2, 3, 4)) > 0.01
    assert differ.float().mean() > 0.8


@pytest.mark.parametrize(
    "active", [("hue",), ("saturation",), ("contrast", "hue"), ("brightness",)]
)
def test_some_color_operations_only(active: tuple[str, ...]) -> None:
    off: dict[str, Any] = dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.0)
    augmentation = Augmentation(**(off | dict.fromkeys(active, 0.4)), grayscale=0, blur=0)
    assert_as_torchvision(random_images(16), draw(augmentation, 32, 32, 32, seeded()), 32, 1e-5)
