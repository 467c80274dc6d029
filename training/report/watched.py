"""The images that a run is watched on, and their views."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from training.augment.augment import two_views

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from training.recipes.recipe import Recipe

CHUNK = 64  # images whose views are made at a time


@dataclass(frozen=True, kw_only=True)
class Watched:
    """The fixed images a run is watched on, and their views, the same at each measurement."""

    images: NDArray[np.uint8]  # [W,S,S,3] as the finished encoder sees them
    views: NDArray[np.uint8]  # [2W,S,S,3], first views first, as the recipe augments
    labels: NDArray[np.int64]  # [W], NO_LABEL where there is none
    classes: tuple[str, ...]


def draw_views(stored: NDArray[np.uint8], recipe: Recipe) -> NDArray[np.uint8]:
    """Two views of each stored image [W,T,T,3] -> [2W,S,S,3], always the same ones."""
    size, generator = recipe.data.image_size, torch.Generator().manual_seed(0)
    halves: list[list[NDArray[np.uint8]]] = [[], []]
    for start in range(0, len(stored), CHUNK):
        batch = torch.from_numpy(np.array(stored[start : start + CHUNK]))
        views = two_views(batch, recipe.augmentation, size, generator)
        pixels = (views * 255).round_().byte().permute(0, 2, 3, 1).numpy()
        for half, made in zip(halves, np.split(pixels, 2), strict=True):
            half.append(made)
    return np.concatenate([*halves[0], *halves[1]])
