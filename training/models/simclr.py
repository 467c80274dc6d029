"""The network that is trained: encoder f and projection head g in one forward.

A student has a linear map beside g, from h to the embeddings of its teacher. Unlike g it is kept:
encoder and map together are the encoder that is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from training.models.encoder_module import EncoderModule

if TYPE_CHECKING:
    from collections.abc import Sequence


class StudentEncoder(EncoderModule):
    """An encoder and the linear map behind it: float [N,C,S,S] -> embeddings [N,feature_dim]."""

    def __init__(self, encoder: EncoderModule, imitation: nn.Linear) -> None:
        super().__init__()
        self.encoder, self.imitation = encoder, imitation
        self.feature_dim = imitation.out_features

    def forward(self, images: Tensor) -> Tensor:
        """Encode and map."""
        embeddings: Tensor = self.imitation(self.encoder(images))
        return embeddings


class SimCLR(nn.Module):
    """Views float [2N,C,S,S] in [0,1] -> projections z [2N,E], a student's [z,e] [2N,E+F].

    Both views go through in one call: split in two, each half would see its own batch statistics.
    """

    def __init__(
        self,
        encoder: EncoderModule,
        head: nn.Module,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        imitation: nn.Linear | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.head, self.imitation = encoder, head, imitation
        self._mean, self._std = mean, std

    def forward(self, views: Tensor) -> Tensor:
        """Normalize, encode and project."""
        h = self.encoder(normalize(views, self._mean, self._std))
        z: Tensor = self.head(h)
        return z if self.imitation is None else torch.cat([z, self.imitation(h)], 1)

    @property
    def embedder(self) -> EncoderModule:
        """What is used after training: the encoder, a student's with its map."""
        if self.imitation is None:
            return self.encoder
        return StudentEncoder(self.encoder, self.imitation)


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(x - mean) / std per channel of float [N,C,H,W]; the paper's 0 and 1 cost nothing."""
    if not any(mean) and all(s == 1 for s in std):
        return images
    shift = torch.tensor(mean, device=images.device).view(1, -1, 1, 1)
    scale = torch.tensor(std, device=images.device).view(1, -1, 1, 1)
    return (images - shift) / scale
