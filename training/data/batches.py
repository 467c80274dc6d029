"""Which images make up each batch, and the batch on the training device."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from training.data.dataset import ImageDataset

# Streams of random numbers; a step of one is never the step of another.
_ORDER, _AUGMENTATION, _LAYERS = 0, 1, 2


class Order:
    """A new permutation of the images per epoch; the last incomplete batch is left out.

    Drawn from (seed, epoch) alone: step 7000 of a resumed run needs no replay.
    """

    def __init__(self, dataset: int, batch_size: int, seed: int) -> None:
        self._dataset, self.batch_size, self._seed = dataset, batch_size, seed
        self.steps_per_epoch = dataset // batch_size
        self._epoch, self._permutation = -1, np.zeros(0, np.int64)

    def __call__(self, step: int) -> NDArray[np.int64]:
        """Return indices [batch_size] of the images of this step."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            random = np.random.default_rng([self._seed, _ORDER, epoch])
            self._epoch, self._permutation = epoch, random.permutation(self._dataset)
        start = position * self.batch_size
        return self._permutation[start : start + self.batch_size]


def augmentation_seed(seed: int, step: int) -> int:
    """Seed of the generator that draws the augmentation of one step."""
    return int(np.random.default_rng([seed, _AUGMENTATION, step]).integers(2**63))


def layer_seed(seed: int, step: int, rank: int, chunk: int) -> int:
    """Seed of the random layers (drop-out, stochastic depth) in one forward of one process."""
    return int(np.random.default_rng([seed, _LAYERS, step, rank, chunk]).integers(2**63))


class Batch(NamedTuple):
    """Images of a step, each in the upper left corner of its area."""

    pixels: Tensor  # uint8 [B,H,W,C]
    height: int | Tensor  # of all images of the step, or float [N] of each
    width: int | Tensor


class Batches:
    """Picks images by index; on an accelerator they live there if half of it is enough."""

    def __init__(
        self, dataset: ImageDataset, order: Order, own: NDArray[np.int64], device: torch.device
    ) -> None:
        self._dataset, self._order, self._own, self._device = dataset, order, own, device
        self._resident: Tensor | None = None
        images = dataset.images
        if device.type == "cuda" and images.nbytes < torch.cuda.mem_get_info(device)[0] // 2:
            self._resident = torch.from_numpy(np.ascontiguousarray(images)).to(device)

    def __call__(self, step: int) -> Batch:
        """Return the images of a step on the device: pixels of this process's, heights of all."""
        indices = self._order(step)
        mine = indices[self._own]
        if self._resident is not None:
            pixels = self._gather(mine)
        else:
            canvas = torch.from_numpy(self._dataset.canvas(mine))
            pixels = canvas.to(self._device, non_blocking=True)
        if self._dataset.sizes is None:
            return Batch(pixels, *self._dataset.images.shape[1:3])
        return Batch(pixels, *self._on_device(self._dataset.sizes[indices].T).float())

    def _gather(self, indices: NDArray[np.int64]) -> Tensor:
        """Return the canvas of images that live on the device."""
        dataset, resident = self._dataset, self._resident
        assert resident is not None
        if dataset.sizes is None:
            return resident.index_select(0, self._on_device(indices))
        sizes = dataset.sizes[indices]
        rows, columns = (torch.arange(side, device=self._device) for side in sizes.max(0).tolist())
        heights, widths = self._on_device(sizes.T)[:, :, None, None]
        start = self._on_device(dataset.starts[indices])[:, None, None]
        inside = (rows[:, None] < heights) & (columns < widths)
        pixel = torch.where(inside, start + rows[:, None] * widths + columns, start)
        return resident.index_select(0, pixel.flatten()).view(*pixel.shape, -1)

    def _on_device(self, numbers: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(numbers)).to(self._device, non_blocking=True)
