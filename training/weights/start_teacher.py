"""The start of a run as its own teacher: `teacher.encoder = "start"`.

An encoder that is trained already says what it knows at the size it was made for; what is trained
learns to say the same, each image moved to its neighbors (`distillation/targets.py`), at a smaller
size perhaps. So nothing is forgotten on the way, which contrastive training from trained weights
was measured to do.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from base.files import sha256_bytes
from training.distillation.settings import START, start_data
from training.models.features import encode
from training.recipes.build_model import encoder_of
from training.weights.library_settings import library_settings
from training.weights.start_weights import read_start_weights

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from images.pixels.preprocess import PreprocessSpec
    from training.recipes.recipe import Recipe


def learns_from_start(recipe: Recipe) -> bool:
    """Whether the run's start is its teacher."""
    return recipe.teacher.encoder == START


def with_teacher_size(recipe: Recipe) -> Recipe:
    """Return the recipe with the size that the start was made for, where it does not say one."""
    if not learns_from_start(recipe) or recipe.teacher.image_size is not None:
        return recipe
    library = None
    if recipe.data.channels == 3 and recipe.encoder.width == 1:
        library = library_settings(recipe.encoder.name)
    size = max(recipe.data.image_size, library.image_size if library else 0)
    return replace(recipe, teacher=replace(recipe.teacher, image_size=size))


class StartTeacher:
    """The encoder that a run starts from, as `distillation.teacher.Teacher`."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        """Read the start weights that the recipe names."""
        recipe = replace(
            recipe,
            data=start_data(recipe.data, recipe.teacher),
            training=replace(recipe.training, progressive=None),
        )
        weights = read_start_weights(recipe)
        self._encoder = encoder_of(recipe)
        self._encoder.load_state_dict(weights.state)
        self._encoder.to(device).eval()
        self._data = recipe.data
        self.digest = sha256_bytes(f"{weights.sha256} {self.preprocess.digest}".encode())
        self.embedding_dim = self._encoder.feature_dim

    @property
    def preprocess(self) -> PreprocessSpec:
        """How an image becomes a row of `encode`'s argument."""
        return self._data.evaluation

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Uint8 [N,S,S,C] -> unit rows [N,D]."""
        data = self._data
        rows = encode(self._encoder, images, mean=data.mean, std=data.std, batch_size=32)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        return np.asarray(rows / np.maximum(lengths, 1e-12), np.float32)
