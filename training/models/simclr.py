"""The network that is trained: encoder f and projection head g in one forward."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from training.errors import RecipeError
from training.models.encoders import EncoderModule, build_encoder
from training.models.projection_head import projection_head

if TYPE_CHECKING:
    from collections.abc import Sequence

    from training.recipes.recipe import Recipe


class SimCLR(nn.Module):
    """Views float [2N,C,S,S] in [0,1] -> projections z [2N,E].

    Both views go through in one call: split in two, each half would see its own batch statistics.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.encoder = encoder_of(recipe)
        self.head = projection_head(
            recipe.head.kind, self.encoder.feature_dim, recipe.head.hidden, recipe.head.out_dim
        )
        self._mean, self._std = recipe.data.mean, recipe.data.std

    def forward(self, views: Tensor) -> Tensor:
        """Normalize, encode and project."""
        z: Tensor = self.head(self.encoder(normalize(views, self._mean, self._std)))
        return z


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
        model = SimCLR(recipe)
    _check_sizes(model.encoder, recipe)
    # mypy knows no overload of Module.to with a memory format alone
    return model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _check_sizes(encoder: EncoderModule, recipe: Recipe) -> None:
    """Refuses progressive sizes that the encoder was not built for, before the run gets there."""
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


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(x - mean) / std per channel of float [N,C,H,W]; the paper's 0 and 1 cost nothing."""
    if not any(mean) and all(s == 1 for s in std):
        return images
    shift = torch.tensor(mean, device=images.device).view(1, -1, 1, 1)
    scale = torch.tensor(std, device=images.device).view(1, -1, 1, 1)
    return (images - shift) / scale
