"""Which pictures make up each batch, and the batch on the training device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Streams of random numbers; a step of one is never the step of another.
_ORDER, _AUGMENTATION, _LAYERS = 0, 1, 2


class Order:
    """A new permutation of the pictures per epoch; the last incomplete batch is left out.

    Drawn from (seed, epoch) alone: step 7000 of a resumed run needs no replay.
    """

    def __init__(self, pictures: int, batch_size: int, seed: int) -> None:
        self._pictures, self._batch_size, self._seed = pictures, batch_size, seed
        self.steps_per_epoch = pictures // batch_size
        self._epoch, self._permutation = -1, np.zeros(0, np.int64)

    def __call__(self, step: int) -> NDArray[np.int64]:
        """Indices [batch_size] of the pictures of this step."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            random = np.random.default_rng([self._seed, _ORDER, epoch])
            self._epoch, self._permutation = epoch, random.permutation(self._pictures)
        start = position * self._batch_size
        return self._permutation[start : start + self._batch_size]


def augmentation_seed(seed: int, step: int) -> int:
    """Seed of the generator that draws the augmentation of one step."""
    return int(np.random.default_rng([seed, _AUGMENTATION, step]).integers(2**63))


def layer_seed(seed: int, step: int, rank: int, chunk: int) -> int:
    """Seed of the random layers (drop-out, stochastic depth) in one forward of one process."""
    return int(np.random.default_rng([seed, _LAYERS, step, rank, chunk]).integers(2**63))


class Batches:
    """Picks pictures by index; on an accelerator they live there if half of it is enough."""

    def __init__(self, images: NDArray[np.uint8], device: torch.device) -> None:
        self._images, self._device = images, device
        self._resident: torch.Tensor | None = None
        if device.type == "cuda" and images.nbytes < torch.cuda.mem_get_info(device)[0] // 2:
            self._resident = torch.from_numpy(np.ascontiguousarray(images)).to(device)

    def __call__(self, indices: NDArray[np.int64]) -> torch.Tensor:
        """uint8 [B,T,T,3] on the device."""
        if self._resident is not None:
            where = torch.from_numpy(indices).to(self._device, non_blocking=True)
            return self._resident.index_select(0, where)
        return torch.from_numpy(self._images[indices]).to(self._device, non_blocking=True)
