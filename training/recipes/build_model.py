"""From a recipe to its untrained network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from training.errors import RecipeError
from training.models.encoders import build_encoder
from training.models.projection_head import projection_head
from training.models.simclr import SimCLR

if TYPE_CHECKING:
    from training.models.encoder_module import EncoderModule
    from training.recipes.recipe import Recipe


def encoder_of(recipe: Recipe) -> EncoderModule:
    """Return the recipe's encoder, untrained."""
    return build_encoder(
        recipe.encoder.name,
        width=recipe.encoder.width,
        stem=recipe.encoder.stem,
        image_size=recipe.data.image_size,
        channels=recipe.data.channels,
        zero_init_residual=recipe.encoder.zero_init_residual,
        selective_kernels=recipe.encoder.selective_kernels,
    )


def build_model(recipe: Recipe, device: torch.device) -> SimCLR:
    """Return the network with the weights that the recipe's seed gives, on a device, channels last.

    The weights are drawn on the CPU, so they are the same for every device, and torch's global
    random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        encoder = encoder_of(recipe)
        head = projection_head(
            recipe.head.kind, encoder.feature_dim, recipe.head.hidden, recipe.head.out_dim
        )
        imitation = None
        if recipe.teacher.encoder is not None:
            imitation = nn.Linear(encoder.feature_dim, recipe.teacher.embedding_dim)
    model = SimCLR(encoder, head, mean=recipe.data.mean, std=recipe.data.std, imitation=imitation)
    _check_sizes(encoder, recipe)
    # mypy knows no overload of Module.to with a memory format alone
    return model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _check_sizes(encoder: EncoderModule, recipe: Recipe) -> None:
    """Refuse progressive sizes that the encoder was not built for, before the run gets there."""
    for _, size in recipe.training.progressive or ():
        if size == recipe.data.image_size:
            continue
        try:
            with torch.no_grad():
                encoder.eval()(torch.zeros(1, 3, size, size))
        except (RuntimeError, AssertionError) as error:
            raise RecipeError(
                f"{recipe.encoder.name} cannot read the views of {size} px of "
                "training.progressive: take another encoder or other sizes"
            ) from error
        finally:
            encoder.train()
