"""What is drawn: probabilities, ranges, independence. Bounds are 5 standard deviations wide."""

import itertools
import math
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from base.errors import UsageError
from training.augment.augment import Augmentation, Parameters, draw
from training.augment.color import Jitter

MANY = 20_000
PAPER = Augmentation()


def drawn(
    augmentation: Augmentation = PAPER, count: int = MANY, *, seed: int = 0, **size: int
) -> Parameters:
    generator = torch.Generator().manual_seed(seed)
    return draw(augmentation, count, size.get("height", 32), size.get("width", 32), generator)


def tensors(parameters: Parameters) -> dict[str, Tensor]:
    assert parameters.jitter is not None
    both = (parameters, parameters.jitter)
    values = {f.name: getattr(record, f.name) for record in both for f in fields(record)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def assert_share(mask: Tensor | None, probability: float) -> None:
    assert mask is not None
    spread = math.sqrt(probability * (1 - probability) / len(mask))
    assert mask.float().mean().item() == pytest.approx(probability, abs=5 * spread)


def assert_uniform(values: Tensor, low: float, high: float) -> None:
    assert low <= values.min() <= low + 0.01 * (high - low)
    assert high - 0.01 * (high - low) <= values.max() <= high
    for quarter in (0.25, 0.5, 0.75):
        assert_share(values < low + quarter * (high - low), quarter)


@pytest.mark.parametrize("probability", [0.2, 0.5, 0.8])
def test_operations_happen_with_their_probability(probability: float) -> None:
    p = drawn(
        Augmentation(
            flip=probability,
            jitter_probability=probability,
            grayscale=probability,
            blur=probability,
        )
    )
    assert p.jitter is not None
    assert p.blur_sigma is not None
    for mask in (p.flip, p.grayscale, p.blur_sigma > 0, p.jitter.jittered):
        assert_share(mask, probability)


def test_probability_0_and_1() -> None:
    off = drawn(Augmentation(flip=0, jitter_probability=0, grayscale=0, blur=0))
    assert (off.flip, off.jitter, off.grayscale, off.blur_sigma) == (None, None, None, None)
    on = drawn(Augmentation(flip=1, jitter_probability=1, grayscale=1, blur=1))
    assert on.flip is not None
    assert on.grayscale is not None
    assert on.jitter is not None
    assert on.blur_sigma is not None
    assert on.flip.all()
    assert on.grayscale.all()
    assert on.jitter.jittered.all()
    assert (on.blur_sigma > 0).all()


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_strength_0_switches_off(name: str) -> None:
    values: dict[str, Any] = {name: 0}
    jitter = drawn(Augmentation(**values)).jitter
    assert jitter is not None
    assert getattr(jitter, name) is None
    rest: dict[str, Any] = dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0)
    assert drawn(Augmentation(**rest)).jitter is None


@pytest.mark.parametrize("strength", [0.4, 0.8, 1.5])
def test_factors_are_uniform_in_torchvisions_ranges(strength: float) -> None:
    jitter = drawn(Augmentation(brightness=strength, contrast=strength, saturation=strength)).jitter
    assert jitter is not None
    low, high = max(0, 1 - strength), 1 + strength
    for factor in (jitter.brightness, jitter.contrast, jitter.saturation):
        assert factor is not None
        assert_uniform(factor[jitter.jittered], low, high)
        assert (factor[~jitter.jittered] == 1).all()


def test_hue_and_sigma_are_uniform_in_their_ranges() -> None:
    p = drawn(Augmentation(hue=0.5, blur_sigma=(0.3, 1.7)))
    assert p.jitter is not None
    assert p.jitter.hue is not None
    assert p.blur_sigma is not None
    assert_uniform(p.jitter.hue[p.jitter.jittered], -0.5, 0.5)
    assert (p.jitter.hue[~p.jitter.jittered] == 0).all()
    assert_uniform(p.blur_sigma[p.blur_sigma > 0], 0.3, 1.7)


def test_every_order_of_the_color_operations_is_as_likely() -> None:
    jitter = drawn().jitter
    assert jitter is not None
    for order in itertools.permutations(range(4)):
        assert_share((jitter.position == torch.tensor(order)).all(1), 1 / 24)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (20, 90), (300, 140)])
def test_crops_are_distributed_as_torchvisions(height: int, width: int) -> None:
    torch.manual_seed(0)
    few = 800
    theirs = v2.RandomResizedCrop(8)
    image = torch.empty(3, height, width)
    boxes = [theirs.make_params([image]) for _ in range(few)]
    ours = drawn(height=height, width=width).crop
    for column, name in enumerate(("top", "left", "height", "width")):
        expected = torch.tensor([box[name] for box in boxes])
        at_most = torch.arange(max(height, width) + 1)[:, None]
        gap = (expected <= at_most).float().mean(1) - (ours[:, column] <= at_most).float().mean(1)
        # two-sample Kolmogorov-Smirnov, one in a million
        assert gap.abs().max() < 2.7 * math.sqrt(1 / few + 1 / MANY), name


def test_areas_are_uniform_and_aspects_in_the_logarithm() -> None:
    side = 4000
    augmentation = Augmentation(crop_area=(0.1, 0.3), crop_aspect=(0.5, 2.0))
    height, width = drawn(augmentation, height=side, width=side).crop[:, 2:].double().unbind(1)
    assert_uniform(height * width / side**2, 0.0995, 0.3005)
    assert_uniform((width / height).log2(), -1.005, 1.005)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 50), (50, 1), (7, 300), (333, 500)])
@pytest.mark.parametrize("area", [(0.01, 0.02), (0.08, 1.0), (1.0, 1.0)])
def test_crops_lie_inside(height: int, width: int, area: tuple[float, float]) -> None:
    crop = drawn(Augmentation(crop_area=area), 2000, height=height, width=width).crop
    top, left, crop_height, crop_width = crop.unbind(1)
    assert top.min() >= 0
    assert left.min() >= 0
    assert min(crop_height.min(), crop_width.min()) >= 1
    assert (top + crop_height).max() <= height
    assert (left + crop_width).max() <= width


@pytest.mark.parametrize(("height", "width"), [(20, 90), (90, 20), (40, 41)])
def test_without_a_fitting_try_the_middle_is_taken(height: int, width: int) -> None:
    theirs = v2.RandomResizedCrop(8, scale=(1.0, 1.0), ratio=(0.9, 0.95))
    box = theirs.make_params([torch.empty(3, height, width)])
    augmentation = Augmentation(crop_area=(1.0, 1.0), crop_aspect=(0.9, 0.95))
    crop = drawn(augmentation, 50, height=height, width=width).crop
    expected = torch.tensor([box[name] for name in ("top", "left", "height", "width")])
    assert (crop == expected).all()


def test_views_and_operations_are_independent() -> None:
    tensors_of = tensors(drawn(Augmentation(jitter_probability=1, blur=1), 2 * MANY))
    del tensors_of["jittered"]  # always true here
    crop, position = tensors_of.pop("crop").float(), tensors_of.pop("position").float()
    operations = torch.stack(
        [crop[:, 2], position[:, 0], *(v.float() for v in tensors_of.values())]
    )
    limit = 5 / math.sqrt(MANY)
    assert torch.corrcoef(operations).fill_diagonal_(0).abs().max() < limit
    everything = torch.cat([operations, crop.T, position.T])
    for lag in (1, 2, MANY):  # neighbors in a batch, and the two views of an image
        later = torch.corrcoef(torch.cat([everything[:, lag:], everything[:, :-lag]]))
        assert later[: len(everything), len(everything) :].abs().max() < limit, lag


def test_the_generators_state_decides_everything() -> None:
    generator = torch.Generator().manual_seed(7)
    state = generator.get_state()
    first = draw(PAPER, 100, 32, 32, generator)
    second = draw(PAPER, 100, 32, 32, generator)
    torch.manual_seed(99)  # the global generator has no say
    again = draw(PAPER, 100, 32, 32, generator.set_state(state))
    for name, value in tensors(first).items():
        assert torch.equal(value, tensors(again)[name]), name
    assert not torch.equal(first.crop, second.crop)


@pytest.mark.parametrize("name", ["flip", "brightness", "hue", "grayscale", "blur"])
def test_switching_one_operation_off_leaves_the_others(name: str) -> None:
    off: dict[str, Any] = {name: 0}
    with_it, without_it = tensors(drawn(count=50)), tensors(drawn(replace(PAPER, **off), 50))
    assert len(without_it) == len(with_it) - 1
    for key, value in without_it.items():
        assert torch.equal(value, with_it[key]), key


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("flip", 1.2),
        ("flip", -0.1),
        ("jitter_probability", 2),
        ("grayscale", float("nan")),
        ("blur", 1.01),
        ("blur_kernel", 1.5),
        ("brightness", -0.4),
        ("contrast", -1),
        ("saturation", float("nan")),
        ("hue", 0.6),
        ("crop_area", (0.5, 0.1)),
        ("crop_area", (0.0, 1.0)),
        ("crop_area", (0.5, 1.5)),
        ("crop_aspect", (2.0, 1.0)),
        ("crop_aspect", (-1.0, 1.0)),
        ("blur_sigma", (0.0, 2.0)),
        ("blur_sigma", (3.0, 2.0)),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(
    field: str, value: float | tuple[float, float]
) -> None:
    values: dict[str, Any] = {field: value}
    shown = str(list(value) if isinstance(value, tuple) else value)
    with pytest.raises(UsageError) as error:
        Augmentation(**values)
    assert str(error.value).startswith(f"augmentation.{field} = {shown}: ")


def test_indexing_takes_the_jitter_along() -> None:
    p = drawn(count=10)
    selection = p[torch.tensor([3, 1])]
    assert isinstance(selection.jitter, Jitter)
    assert selection.blur_kernel == p.blur_kernel
    for name, value in tensors(selection).items():
        assert torch.equal(value, tensors(p)[name][[3, 1]]), name


def test_images_of_different_sizes_have_the_boxes_of_their_own_size() -> None:
    sizes = [(32, 32), (20, 50), (90, 10)]
    generator = torch.Generator().manual_seed(0)
    height, width = torch.tensor(sizes).float().t()
    mixed = draw(PAPER, 600, height, width, generator)
    for number, (h, w) in enumerate(sizes):
        alone = drawn(count=600, height=h, width=w)
        assert torch.equal(mixed.crop[number::3], alone.crop[number::3])
        top, left, crop_height, crop_width = mixed.crop[number::3].unbind(1)
        assert (top + crop_height).max() <= h
        assert (left + crop_width).max() <= w
        assert crop_height.float().mean() > 0.3 * min(h, w)
