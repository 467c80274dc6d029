"""The network that is trained: encoder f and projection head g in one forward."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from training.models.encoder_module import EncoderModule


class SimCLR(nn.Module):
    """Views float [2N,C,S,S] in [0,1] -> projections z [2N,E].

    Both views go through in one call: split in two, each half would see its own batch statistics.
    """

    def __init__(
        self,
        encoder: EncoderModule,
        head: nn.Module,
        *,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head
        self._mean, self._std = mean, std

    def forward(self, views: Tensor) -> Tensor:
        """Normalize, encode and project."""
        z: Tensor = self.head(self.encoder(normalize(views, self._mean, self._std)))
        return z


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(x - mean) / std per channel of float [N,C,H,W]; the paper's 0 and 1 cost nothing."""
    if not any(mean) and all(s == 1 for s in std):
        return images
    shift = torch.tensor(mean, device=images.device).view(1, -1, 1, 1)
    scale = torch.tensor(std, device=images.device).view(1, -1, 1, 1)
    return (images - shift) / scale
