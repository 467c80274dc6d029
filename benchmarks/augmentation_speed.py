"""Two views of each image: ours against torchvision's and lightly's transforms, on one core.

    python -m benchmarks.augmentation_speed [--short]

All start from decoded images in memory and end with a float32 batch [2N, 3, S, S] in [0, 1], with
the probabilities and strengths of the same recipe. torchvision: transforms.v2 on one image at a
time, as people use it, on PIL images and on tensors; the faster of the two counts. lightly: its
SimCLRTransform on PIL images, without normalization; left out where it is not installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from rich.table import Table
from torch.nn import functional
from torchvision.transforms import InterpolationMode, v2

from benchmarks.report import publish
from benchmarks.timing import in_turns, ratio
from training.augment.augment import Augmentation, two_views
from training.recipes.recipe_files import load_recipe

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Rates = dict[str, list[float]]

TORCHVISION = ("torchvision PIL", "torchvision tensor")
# recipe, images per round for us and for the others: a few tenths of a second each
CONTESTS = {"32": ("cifar10", 2048, 128), "224": ("imagenet", 16, 4)}


def main() -> None:
    """Run both contests and print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="7 rounds instead of 25")
    rounds = 7 if parser.parse_args().short else 25
    torch.set_num_threads(1)
    rates = {
        size: contest(recipe, ours=ours, theirs=theirs, rounds=rounds)
        for size, (recipe, ours, theirs) in CONTESTS.items()
    }
    report(rates, rounds)


def contest(recipe: str, *, ours: int, theirs: int, rounds: int) -> Rates:
    """Return images per second of each way in each round, with the recipe's augmentation."""
    loaded = load_recipe(recipe)
    augmentation, size = loaded.augmentation, loaded.data.image_size
    images = soft_images(max(ours, theirs), loaded.data.stored.size)
    generator = torch.Generator().manual_seed(0)
    batch = 256

    def lookalike() -> int:
        for start in range(0, ours, batch):
            two_views(images[start : min(start + batch, ours)], augmentation, size, generator)
        return ours

    pil = [Image.fromarray(image.numpy()) for image in images[:theirs]]
    tensors = list(images[:theirs].permute(0, 3, 1, 2).contiguous())
    one = torchvision_transform(augmentation, size)
    ways = {
        "lookalike": lookalike,
        "torchvision PIL": lambda: _stacked([one(x) for _ in range(2) for x in pil]),
        "torchvision tensor": lambda: _stacked([one(x) for _ in range(2) for x in tensors]),
    }
    if importlib.util.find_spec("lightly"):
        pair = lightly_transform(augmentation, size)
        ways["lightly"] = lambda: _stacked([view for x in pil for view in pair(x)])
    return in_turns(ways, rounds)


def _stacked(views: list[Tensor]) -> int:
    """Stack all views and return how many images they are of."""
    return len(torch.stack(views)) // 2


def soft_images(count: int, side: int) -> Tensor:
    """Draw color clouds, uint8 [count, side, side, 3]."""
    generator = torch.Generator().manual_seed(0)
    clouds = torch.rand(count, 3, 6, 6, generator=generator)
    images = functional.interpolate(clouds, (side, side), mode="bilinear")
    return (images * 255).byte().permute(0, 2, 3, 1).contiguous()


def torchvision_transform(a: Augmentation, size: int) -> Callable[[Any], Tensor]:
    """Return the same augmentation, put together from torchvision's transforms."""
    bicubic = InterpolationMode.BICUBIC
    crop = v2.RandomResizedCrop(size, a.crop_area, a.crop_aspect, bicubic, antialias=True)
    jitter = v2.ColorJitter(a.brightness, a.contrast, a.saturation, a.hue)
    steps = [crop, v2.RandomHorizontalFlip(a.flip), v2.RandomApply([jitter], a.jitter_probability)]
    steps.append(v2.RandomGrayscale(a.grayscale))
    if a.blur:
        kernel = int(size * a.blur_kernel) // 2 * 2 + 1
        steps.append(v2.RandomApply([v2.GaussianBlur(kernel, a.blur_sigma)], a.blur))
    transform: Callable[[Any], Tensor] = v2.Compose(
        [*steps, v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    )
    return transform


def lightly_transform(a: Augmentation, size: int) -> Callable[[Any], list[Tensor]]:
    """Return the same augmentation as lightly's documentation sets it up."""
    from lightly.transforms import SimCLRTransform

    transform: Callable[[Any], list[Tensor]] = SimCLRTransform(
        input_size=size,
        cj_prob=a.jitter_probability,
        cj_strength=1.0,
        cj_bright=a.brightness,
        cj_contrast=a.contrast,
        cj_sat=a.saturation,
        cj_hue=a.hue,
        min_scale=a.crop_area[0],
        random_gray_scale=a.grayscale,
        gaussian_blur=a.blur,
        sigmas=a.blur_sigma,
        hf_prob=a.flip,
        normalize=None,
    )
    return transform


def report(rates: dict[str, Rates], rounds: int) -> None:
    """Print the table and the JSON line."""
    table = Table(title="Two views a picture, one core: pictures per second (median)")
    for column in ("pixels", "way", "pictures/s", "lookalike is faster by"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for size, ways in rates.items():
        for way, values in ways.items():
            faster = f"{ratio(ways['lookalike'], values):.1f}"
            table.add_row(size, way, f"{statistics.median(values):,.0f}", faster)
    metrics = {
        "vs_torchvision_32": _against_torchvision(rates["32"]),
        "vs_lightly_32": _against(rates["32"], "lightly"),
        "vs_torchvision_224": _against_torchvision(rates["224"]),
    }
    details: dict[str, object] = {
        "threads": 1,
        "rounds": rounds,
        "recipes": {size: recipe for size, (recipe, *_) in CONTESTS.items()},
        "pictures_per_second": {
            size: {way: round(statistics.median(values), 1) for way, values in ways.items()}
            for size, ways in rates.items()
        },
    }
    if metrics["vs_lightly_32"] is None:
        details["lightly"] = "not installed"
    publish(
        "augmentation_speed",
        metrics=metrics,
        details=details,
        tables=[table],
        packages=["torch", "torchvision", "pillow", "lightly"],
    )


def _against(rates: Rates, way: str) -> float | None:
    return round(ratio(rates["lookalike"], rates[way]), 2) if way in rates else None


def _against_torchvision(rates: Rates) -> float | None:
    """Compare with the faster of its two ways."""
    return _against(rates, max(TORCHVISION, key=lambda way: statistics.median(rates[way])))


if __name__ == "__main__":
    main()
