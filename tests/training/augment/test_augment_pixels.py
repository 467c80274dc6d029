"""What `apply` makes of given parameters, image by image against torchvision's functional."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from training.augment import augment, per_image
from training.augment.augment import Augmentation, Parameters, apply, draw, two_views
from training.augment.color import Jitter, shift_hue_

ADJUST = (
    functional.adjust_brightness,
    functional.adjust_contrast,
    functional.adjust_saturation,
    functional.adjust_hue,
)
EVERYTHING = Augmentation(jitter_probability=0.9, grayscale=0.3)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int, height: int = 32, width: int = 32) -> Tensor:
    """uint8 [N, H, W, 3]: half of them noise, half of them soft with a strong color."""
    noise = torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=seeded())
    tint = torch.randint(0, 200, (count, 1, 1, 3), dtype=torch.uint8, generator=seeded(1))
    noise[::2] = noise[::2] // 5 + tint[::2]
    return noise


def whole(count: int, size: int, **given: Any) -> Parameters:
    """Parameters that change nothing, but for those given."""
    nothing = Parameters(
        crop=torch.tensor([[0, 0, size, size]]).repeat(count, 1),
        flip=None,
        jitter=None,
        grayscale=None,
        blur_sigma=None,
        blur_kernel=0.1,
    )
    return replace(nothing, **given)


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


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(32, 32, 32), (28, 28, 32), (96, 96, 32), (40, 61, 33), (23, 9, 16), (1, 1, 8), (5, 70, 1)],
)
def test_all_operations_together(height: int, width: int, size: int) -> None:
    p = draw(EVERYTHING, 40, height, width, seeded())
    assert_as_torchvision(pictures(20, height, width), p, size, 1e-5)


def test_large_images() -> None:
    p = draw(EVERYTHING, 4, 300, 400, seeded(3))
    # where positions reach 400, float32 itself leaves an error of 3e-5 pixels
    assert_as_torchvision(pictures(2, 300, 400), p, 224, 2e-4)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (75, 40)])
def test_crops_agree_with_torchvisions_on_uint8(height: int, width: int) -> None:
    # not so bright or dark that torchvision clips between the two passes, as only uint8 needs
    images = pictures(32, height, width) // 3 + 80
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
    assert_as_torchvision(pictures(8), p, 32, 1e-5)


def test_identity_gives_the_image() -> None:
    images = pictures(8)
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
    images = pictures(4)
    views = apply(images, whole(4, 32, flip=torch.tensor([True, False, True, False])), 32)
    plain = apply(images, whole(4, 32), 32)
    assert torch.equal(views[0::2], plain[0::2].flip(3))
    assert torch.equal(views[1::2], plain[1::2])


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_factors_from_nothing_to_much(name: str) -> None:
    factors = torch.tensor([0.0, 0.2, 0.7, 1.0, 1.3, 1.8, 3.0, 10.0])
    p = whole(8, 32, jitter=jitter(**{name: factors}))
    assert_as_torchvision(pictures(8), p, 32, 1e-5)


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
    views = assert_as_torchvision(pictures(4), whole(4, 32, grayscale=gray), 32, 1e-5)
    assert torch.equal(views[gray, 0], views[gray, 2])
    assert not torch.equal(views[1, 0], views[1, 2])


@pytest.mark.parametrize("share", [0.0, 0.1, 0.35, 1.0])
@pytest.mark.parametrize("size", [8, 33])
def test_blur_has_sigmas_of_its_own_and_reflects_at_the_edges(share: float, size: int) -> None:
    sigma = torch.tensor([0.1, 0.5, 0.0, 2.0, 9.0])
    p = whole(5, size, blur_sigma=sigma, blur_kernel=share)
    assert_as_torchvision(pictures(5, size, size), p, size, 1e-5)


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
    given = jitter(positions, brightness=torch.full((24,), 1.9), hue=torch.full((24,), 0.2), **half)
    views = assert_as_torchvision(pictures(1), whole(24, 32, jitter=given), 32, 1e-5)
    differ = (views[:, None] - views[None]).abs().amax((2, 3, 4)) > 0.01
    assert differ.float().mean() > 0.8


@pytest.mark.parametrize(
    "active", [("hue",), ("saturation",), ("contrast", "hue"), ("brightness",)]
)
def test_some_color_operations_only(active: tuple[str, ...]) -> None:
    off: dict[str, Any] = dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.0)
    augmentation = Augmentation(**(off | dict.fromkeys(active, 0.4)), grayscale=0, blur=0)
    assert_as_torchvision(pictures(16), draw(augmentation, 32, 32, 32, seeded()), 32, 1e-5)


def test_views_stay_in_range_and_are_channels_last() -> None:
    extreme = Augmentation(brightness=3, contrast=3, saturation=3, hue=0.5, jitter_probability=1)
    views = two_views(pictures(50), extreme, 24, seeded())
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
    images, generator = pictures(40), seeded()
    state = generator.get_state()
    views = two_views(images, EVERYTHING, 32, generator)
    later = two_views(images, EVERYTHING, 32, generator)
    again = two_views(images, EVERYTHING, 32, generator.set_state(state))
    assert torch.equal(views, again)
    first, second = views.chunk(2)
    for other in (second, later[:40], first.roll(1, 0)):
        assert ((first - other).abs().amax((1, 2, 3)) > 0.01).all()


def test_the_images_are_only_read() -> None:
    for images in (pictures(20), pictures(20) / 255):
        before = images.clone()
        two_views(images, EVERYTHING, 32, seeded())
        assert torch.equal(images, before)


def test_layouts_and_types_of_images() -> None:
    images = pictures(20, 24, 40)
    views = two_views(images, EVERYTHING, 32, seeded())
    planar = images.permute(0, 3, 1, 2)
    assert torch.equal(two_views(planar, EVERYTHING, 32, seeded()), views)
    assert torch.equal(two_views(planar.contiguous(), EVERYTHING, 32, seeded()), views)
    floats = two_views(images / 255, EVERYTHING, 32, seeded())
    torch.testing.assert_close(floats, views, atol=1e-5, rtol=0)


def test_boxes_of_large_images_are_cut_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for images in (pictures(15, 40, 50), pictures(15, 40, 50) / 255):
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
        area[:height, :width] = pictures(1, height, width)[0]
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
    images = pictures(15)
    views = two_views(images, EVERYTHING, 32, seeded())
    monkeypatch.setattr(augment, "CPU_BLOCK", values)
    in_blocks = two_views(images, EVERYTHING, 32, seeded())
    torch.testing.assert_close(in_blocks, views, atol=1e-5, rtol=0)


def test_the_way_without_looking_makes_the_same_views(monkeypatch: pytest.MonkeyPatch) -> None:
    images = pictures(40)
    views = two_views(images, EVERYTHING, 32, seeded())
    monkeypatch.setattr(per_image, "host_can_look", lambda _: False)
    blindly = two_views(images, EVERYTHING, 32, seeded())
    torch.testing.assert_close(blindly, views, atol=1e-5, rtol=0)


@pytest.mark.parametrize("colored", [0, 19, None])
def test_gray_images_are_known_by_all_of_them(colored: int | None) -> None:
    images = pictures(20)[:, :, :, :1].repeat(1, 1, 1, 3)
    if colored is not None:
        images[colored] = pictures(1)[0]
    p = draw(Augmentation(grayscale=0), 40, 32, 32, seeded())
    views = assert_as_torchvision(images, p, 32, 1e-3)  # torchvision's luma weights sum to 0.9999
    color = (views[:, 0] != views[:, 2]).flatten(1).any(1).nonzero()[:, 0].tolist()
    assert color == ([] if colored is None else [colored, colored + 20])


@pytest.mark.parametrize("augmentation", [EVERYTHING, Augmentation(brightness=0, contrast=0)])
def test_one_channel_serves_for_three_equal_ones(augmentation: Augmentation) -> None:
    images = pictures(20)[:, :, :, :1]
    views = two_views(images, augmentation, 32, seeded())
    assert views.is_contiguous(memory_format=torch.channels_last)
    # torchvision's weights of gray sum to 0.9999
    three = two_views(images.expand(-1, -1, -1, 3), augmentation, 32, seeded())
    torch.testing.assert_close(views, three, atol=1e-3, rtol=0)


def test_no_images_give_no_views() -> None:
    assert two_views(pictures(0), EVERYTHING, 32, seeded()).shape == (0, 3, 32, 32)


def test_each_of_many_channels_is_treated_as_one_of_three() -> None:
    kept = replace(EVERYTHING, contrast=0, saturation=0, hue=0, grayscale=0)
    drawn = draw(kept, 8, 40, 32, seeded())
    images = torch.randint(0, 256, (4, 40, 32, 6), dtype=torch.uint8, generator=seeded())
    views = apply(images, drawn, 16)
    assert views.shape == (8, 6, 16, 16)
    for part in (slice(0, 3), slice(3, 6)):
        expected = apply(images[..., part].contiguous(), drawn, 16)
        torch.testing.assert_close(views[:, part], expected, atol=1e-5, rtol=0)


def test_color_operations_leave_many_channels_alone_and_contrast_does_not() -> None:
    images = torch.randint(0, 256, (4, 24, 24, 5), dtype=torch.uint8, generator=seeded())
    off = Augmentation(brightness=0, contrast=0, saturation=0, hue=0, grayscale=0, blur=0)
    plain = apply(images, draw(off, 4, 24, 24, seeded()), 24)
    for given, changed in (
        ({"saturation": 0.5}, False), ({"hue": 0.2}, False), ({"grayscale": 1.0}, False),
        ({"contrast": 0.5}, True), ({"brightness": 0.5}, True),
    ):  # fmt: skip
        drawn = draw(replace(off, **given), 4, 24, 24, seeded())  # type: ignore[arg-type]
        assert torch.equal(apply(images, drawn, 24), plain) != changed


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(4, 8, 8\)"):
        two_views(torch.zeros(4, 8, 8, dtype=torch.uint8), EVERYTHING, 8, seeded())
    with pytest.raises(ValueError, match="5 views of 2 pictures"):
        apply(pictures(2), whole(5, 32), 32)


def on_device(record: per_image.PerImage) -> dict[str, Any]:
    return {k: v.cuda() for k, v in vars(record).items() if isinstance(v, Tensor)}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_makes_the_same_views_without_the_host_waiting() -> None:
    p = draw(EVERYTHING, 128, 40, 32, seeded())
    images = pictures(64, 40, 32)
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
