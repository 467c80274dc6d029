"""Features h of many images with a torch encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from training.models.simclr import normalize

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import nn

    from training.models.simclr import SimCLR


PIXELS = 32  # px, side of the images that raw pixels are compared at


@torch.inference_mode()
def encode(
    encoder: nn.Module,
    images: NDArray[np.uint8],
    *,
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    std: Sequence[float] = (1.0, 1.0, 1.0),
    batch_size: int = 256,
) -> NDArray[np.float32]:
    """Encode in evaluation mode and fp32, on the device the encoder is on.

    Args:
        encoder: float [N,C,S,S] -> h [N,D]; left in the mode (training or not) it came in.
        images: uint8 [N,S,S,C], also memory-mapped.
        mean: subtracted from images in [0,1], per channel.
        std: divided by, per channel.
        batch_size: images per forward.

    Returns:
        h, float32 [N,D], not normalized; [0,0] for no images.
    """
    device = next(encoder.parameters()).device
    training = {module: module.training for module in encoder.modules()}  # frozen layers are not
    encoder.eval()
    try:
        features = []
        for start in range(0, len(images), batch_size):
            batch = torch.from_numpy(np.array(images[start : start + batch_size])).to(device)
            x = batch.permute(0, 3, 1, 2).float() / 255  # NHWC storage is channels_last
            features.append(encoder(normalize(x, mean, std)).float().cpu().numpy())
    finally:
        for module, mode in training.items():
            module.training = mode
    return np.concatenate(features) if features else np.zeros((0, 0), np.float32)


@torch.inference_mode()
def imitate(model: SimCLR, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a student's embeddings [N,E] of features h [N,D]; of another encoder h itself."""
    if model.imitation is None:
        return features
    device = next(model.parameters()).device
    embeddings: torch.Tensor = model.imitation(torch.from_numpy(features).to(device))
    return np.asarray(embeddings.cpu().numpy(), np.float32)


def small_pixels(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return images [n,S,S,C] as rows of their pixels, averaged to 32 x 32 where they are larger.

    The encoder that costs nothing: what is no better than this is not worth its time.
    """
    if not len(images):
        return np.zeros((0, 0), np.float32)
    side = min(PIXELS, images.shape[1])
    planes = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 255
    small = torch.nn.functional.adaptive_avg_pool2d(planes, side)
    return np.asarray(small.flatten(1).numpy(), np.float32)
