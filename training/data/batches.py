"""The images of a step, on the device of the run."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from training.data.order import Order
    from training.data.pixel_array import PixelArray


class ImageBatch(NamedTuple):
    """Images of a step, each in the upper left corner of its area."""

    pixels: Tensor  # uint8 [b,H,W,C], of this process's images
    height: int | Tensor  # of all images of the step, or float [B] of each
    width: int | Tensor


class BatchReader(Protocol):
    """Reads the images of any step: from memory or a file, from the device, or from workers."""

    def __call__(self, step: int) -> ImageBatch:
        """Return the images of a step on the device: pixels of this process's, heights of all."""


def array_batches(dataset: PixelArray, order: Order, device: torch.device) -> BatchReader:
    """Return the reader of decoded images; on CUDA they move there if half its memory is enough."""
    images = dataset.images
    if device.type == "cuda" and images.nbytes < torch.cuda.mem_get_info(device)[0] // 2:
        return ResidentBatches(dataset, order, device)
    return HostBatches(dataset, order, device)


class HostBatches:
    """Picks images on the host, from memory or a memory-mapped file."""

    def __init__(self, dataset: PixelArray, order: Order, device: torch.device) -> None:
        self._dataset, self._order, self._device = dataset, order, device

    def __call__(self, step: int) -> ImageBatch:
        """Return the images of a step, copied to the device."""
        indices = self._order(step)
        canvas = torch.from_numpy(self._dataset.canvas(indices[self._order.own]))
        pixels = canvas.to(self._device, non_blocking=True)
        return _with_sizes(pixels, self._dataset, indices)


class ResidentBatches:
    """Picks images on the device, where all of them live."""

    def __init__(self, dataset: PixelArray, order: Order, device: torch.device) -> None:
        self._dataset, self._order, self._device = dataset, order, device
        self._resident = torch.from_numpy(np.ascontiguousarray(dataset.images)).to(device)

    def __call__(self, step: int) -> ImageBatch:
        """Return the images of a step; only their indices are copied."""
        indices = self._order(step)
        pixels = self._gather(indices[self._order.own])
        return _with_sizes(pixels, self._dataset, indices)

    def _gather(self, indices: NDArray[np.int64]) -> Tensor:
        """Return the canvas of images that live on the device."""
        dataset, resident, device = self._dataset, self._resident, self._device
        if dataset.sizes is None:
            return resident.index_select(0, _to_device(indices, device))
        sizes = dataset.sizes[indices]
        rows, columns = (torch.arange(side, device=device) for side in sizes.max(0).tolist())
        heights, widths = _to_device(sizes.T, device)[:, :, None, None]
        start = _to_device(dataset.starts[indices], device)[:, None, None]
        inside = (rows[:, None] < heights) & (columns < widths)
        pixel = torch.where(inside, start + rows[:, None] * widths + columns, start)
        return resident.index_select(0, pixel.flatten()).view(*pixel.shape, -1)


def _with_sizes(pixels: Tensor, dataset: PixelArray, indices: NDArray[np.int64]) -> ImageBatch:
    if dataset.sizes is None:
        return ImageBatch(pixels, *dataset.images.shape[1:3])
    return ImageBatch(pixels, *_to_device(dataset.sizes[indices].T, pixels.device).float())


def _to_device(numbers: NDArray[np.int64], device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(numbers)).to(device, non_blocking=True)
