from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from images.sources.sources import open_source
from training.recipes.pick_recipe import choose_recipe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def gray(count: int, size: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (size, size), np.uint8) for _ in range(count)]


def test_color_and_gray_get_recipes_of_their_own(
    make_source: Callable[..., Any], image_folder: Path
) -> None:
    source = make_source(40)
    assert choose_recipe(source)[0] == "small-cpu"
    assert choose_recipe(open_source(image_folder))[0] == "small-cpu"
    assert choose_recipe(dataclasses.replace(source, contents=gray(40, 28)))[0] == "grey-cpu"


def test_large_gray_images_and_one_colored_one_are_photographs(
    make_source: Callable[..., Any],
) -> None:
    source = make_source(40)
    large = dataclasses.replace(source, contents=gray(40, 100))
    assert choose_recipe(large)[0] == "small-cpu"
    mixed = dataclasses.replace(source, contents=[*gray(38, 28), *source.contents[38:]])
    assert choose_recipe(mixed)[0] == "small-cpu"


def test_images_that_cannot_be_read_decide_nothing(make_source: Callable[..., Any]) -> None:
    source = make_source(40)
    damaged = dataclasses.replace(source, contents=[b"bad"] * 20 + gray(20, 28))
    assert choose_recipe(damaged)[0] == "grey-cpu"
    assert choose_recipe(dataclasses.replace(source, contents=[b"bad"] * 40))[0] == "small-cpu"
