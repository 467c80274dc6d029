"""Views of whole batches: layouts, sizes, gray images, many channels, devices."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training.augment.by_torchvision import (
    EVERYTHING,
    assert_as_torchvision,
    random_images,
    seeded,
    whole,
)
from training.augment import augment, per_image
from training.augment.augment import Augmentation, apply, draw, two_views


def test_views_stay_in_range_and_are_channels_last() -> None:
    extreme = Augmentation(brightness=3, contrast=3, saturation=3, hue=0.5, jitter_probability=1)
    views = two_views(random_images(50), extreme, 24, seeded())
    assert views.shape == (100, 3, 24, 24)
    assert views.dtype == torch.float32
    assert views.is_contiguous(memory_format=torch.channels_last)
    assert 0 <= views.min() <= views.max() <= 1


def test_first_views_come_first() -> None:
    images = torch.arange(0, 250, 25, dtype=torch.uint8)[:, None, None, None].repeat(1, 8, 8, 3)
    calm = Augmentation(jitter_probability=0, grayscale=0, blur=0)
    views = two_views(images, calm, 8, seeded())
    shade = (images[:, 0, 0, 0] / 255).repeat(2)[:, None, None, None].expand_as(views)
    torch.testing.assert_close(views, shade, atol=1e-6, rtol=0)


def test_two_views_differ_and_repeat_bit_for_bit() -> None:
    images, generator = random_images(40), seeded()
    state = generator.get_state()
    views = two_views(images, EVERYTHING, 32, generator)
    later = two_views(images, EVERYTHING, 32, generator)
    again = two_views(images, EVERYTHING, 32, generator.set_state(state))
    assert torch.equal(views, again)
    first, second = views.chunk(2)
    for other in (second, later[:40], first.roll(1, 0)):
        assert ((first - other).abs().amax((1, 2, 3)) > 0.01).all()


def test_the_images_are_only_read() -> None:
    for images in (random_images(20), random_images(20) / 255):
        before = images.clone()
        two_views(images, EVERYTHING, 32, seeded())
        assert torch.equal(images, before)


def test_layouts_and_types_of_images() -> None:
    images = random_images(20, 24, 40)
    views = two_views(images, EVERYTHING, 32, seeded())
    planar = images.permute(0, 3, 1, 2)
    assert torch.equal(two_views(planar, EVERYTHING, 32, seeded()), views)
    assert torch.equal(two_views(planar.contiguous(), EVERYTHING, 32, seeded()), views)
    floats = two_views(images / 255, EVERYTHING, 32, seeded())
    torch.testing.assert_close(floats, views, atol=1e-5, rtol=0)


def test_boxes_of_large_images_are_cut_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for images in (random_images(15, 40, 50), random_images(15, 40, 50) / 255):
        views = two_views(images, EVERYTHING, 32, seeded())
        monkeypatch.setattr(augment, "LARGE", 1)
        cut_out = two_views(images, EVERYTHING, 32, seeded())
        monkeypatch.undo()
        torch.testing.assert_close(cut_out, views, atol=1e-5, rtol=0)


@pytest.mark.parametrize("large", [1, 10**9])
def test_images_of_different_sizes_share_a_batch(
    large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(augment, "LARGE", large)
    sizes = [(40, 30), (25, 60), (32, 32)]
    areas = torch.zeros(3, 40, 60, 3, dtype=torch.uint8)
    for area, (height, width) in zip(areas, sizes, strict=True):
        area[:height, :width] = random_images(1, height, width)[0]
    height, width = torch.tensor(sizes).float().t()
    p = draw(EVERYTHING, 60, height, width, seeded())
    views = apply(areas, p, 32)
    for view in range(60):
        h, w = sizes[view % 3]
        alone = apply(areas[view % 3][None, :h, :w], p[view : view + 1], 32)
        torch.testing.assert_close(alone[0], views[view], atol=1e-5, rtol=0)


@pytest.mark.parametrize("values", [1, 50_000])
def test_views_do_not_depend_on_the_rest_of_the_batch(
    values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = random_images(15)
    views = two_views(images, EVERYTHING, 32, seeded())
    monkeypatch.setattr(augment, "CPU_BLOCK", values)
    in_blocks = two_views(images, EVERYTHING, 32, seeded())
    torch.testing.assert_close(in_blocks, views, atol=1e-5, rtol=0)


def test_the_way_without_looking_makes_the_same_views(monkeypatch: pytest.MonkeyPatch) -> None:
    images = random_images(40)
    views = two_views(images, EVERYTHING, 32, seeded())
    monkeypatch.setattr(per_image, "host_can_look", lambda _: False)
    blindly = two_views(images, EVERYTHING, 32, seeded())
    torch.testing.assert_close(blindly, views, atol=1e-5, rtol=0)


@pytest.mark.parametrize("colored", [0, 19, None])
def test_gray_images_are_known_by_all_of_them(colored: int | None) -> None:
    images = random_images(20)[:, :, :, :1].repeat(1, 1, 1, 3)
    if colored is not None:
        images[colored] = random_images(1)[0]
    p = draw(Augmentation(grayscale=0), 40, 32, 32, seeded())
    views = assert_as_torchvision(images, p, 32, 1e-3)  # torchvision's luma weights sum to 0.9999
    color = (views[:, 0] != views[:, 2]).flatten(1).any(1).nonzero()[:, 0].tolist()
    assert color == ([] if colored is None else [colored, colored + 20])


@pytest.mark.parametrize("augmentation", [EVERYTHING, Augmentation(brightness=0, contrast=0)])
def test_one_channel_serves_for_three_equal_ones(augmentation: Augmentation) -> None:
    images = random_images(20)[:, :, :, :1]
    views = two_views(images, augmentation, 32, seeded())
    assert views.is_contiguous(memory_format=torch.channels_last)
    # torchvision's weights of gray sum to 0.9999
    three = two_views(images.expand(-1, -1, -1, 3), augmentation, 32, seeded())
    torch.testing.assert_close(views, three, atol=1e-3, rtol=0)


def test_no_images_give_no_views() -> None:
    assert two_views(random_images(0), EVERYTHING, 32, seeded()).shape == (0, 3, 32, 32)


def test_each_of_many_channels_is_treated_as_one_of_three() -> None:
    kept = replace(EVERYTHING, contrast=0, saturation=0, hue=0, grayscale=0)
    drawn = draw(kept, 8, 40, 32, seeded())
    images = torch.randint(0, 256, (4, 40, 32, 6), dtype=torch.uint8, generator=seeded())
    views = apply(images, drawn, 16)
    assert views.shape == (8, 6, 16, 16)
    for channels_of in (slice(0, 3), slice(3, 6)):
        expected = apply(images[..., channels_of].contiguous(), drawn, 16)
        torch.testing.assert_close(views[:, channels_of], expected, atol=1e-5, rtol=0)


def test_color_operations_leave_many_channels_alone_and_contrast_does_not() -> None:
    images = torch.randint(0, 256, (4, 24, 24, 5), dtype=torch.uint8, generator=seeded())
    off = Augmentation(brightness=0, contrast=0, saturation=0, hue=0, grayscale=0, blur=0)
    plain = apply(images, draw(off, 4, 24, 24, seeded()), 24)
    for replaced, changed in (
        ({"saturation": 0.5}, False), ({"hue": 0.2}, False), ({"grayscale": 1.0}, False),
        ({"contrast": 0.5}, True), ({"brightness": 0.5}, True),
    ):  # fmt: skip
        drawn = draw(replace(off, **replaced), 4, 24, 24, seeded())  # type: ignore[arg-type]
        assert torch.equal(apply(images, drawn, 24), plain) != changed


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(4, 8, 8\)"):
        two_views(torch.zeros(4, 8, 8, dtype=torch.uint8), EVERYTHING, 8, seeded())
    with pytest.raises(ValueError, match="5 views of 2 pictures"):
        apply(random_images(2), whole(5, 32), 32)


def on_device(record: per_image.PerImage) -> dict[str, Any]:
    return {k: v.cuda() for k, v in vars(record).items() if isinstance(v, Tensor)}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_makes_the_same_views_without_the_host_waiting() -> None:
    p = draw(EVERYTHING, 128, 40, 32, seeded())
    images = random_images(64, 40, 32)
    assert p.jitter is not None
    jitter = replace(p.jitter, **on_device(p.jitter))
    there = replace(p, jitter=jitter, **on_device(p))
    image, generator = images.cuda(), torch.Generator("cuda").manual_seed(0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        views = apply(image, there, 32)
        drawn = two_views(image, EVERYTHING, 32, generator)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert drawn.shape == views.shape
    torch.testing.assert_close(views.cpu(), apply(images, p, 32), atol=1e-4, rtol=0)
