from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from training.data.batches import BatchReader, HostBatches, ResidentBatches
from training.data.dataset import ImageDataset
from training.data.order import Order

if TYPE_CHECKING:
    from numpy.typing import NDArray


CPU = torch.device("cpu")


def images_of(images: list[NDArray[np.uint8]]) -> ImageDataset:
    alike = len({image.shape for image in images}) == 1
    return ImageDataset(
        name="made",
        images=np.stack(images) if alike else np.concatenate([i.reshape(-1, 3) for i in images]),
        sizes=None if alike else np.array([image.shape[:2] for image in images]),
        labels=np.zeros(len(images), np.int64),
        classes=(),
        refused=(),
        digest="",
    )


class Fixed(Order):
    """Every step has these images."""

    def __init__(self, *positions: int, own: list[int] | None = None) -> None:
        count = len(positions)
        super().__init__(count, count, 0, None if own is None else np.array(own))
        self._positions = np.array(positions)

    def __call__(self, step: int) -> NDArray[np.int64]:  # noqa: ARG002
        return self._positions


def batches(dataset: ImageDataset, order: Order) -> BatchReader:
    reader = dataset.batches(order, CPU)
    assert isinstance(reader, HostBatches)
    return reader


def test_batches_are_the_images_asked_for() -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 4, 5, 3), np.uint8)
    batch = batches(images_of([*images]), Fixed(3, 0, 8))(0)
    np.testing.assert_array_equal(batch.pixels.numpy(), images[[3, 0, 8]])
    assert (batch.height, batch.width) == (4, 5)


def different() -> list[NDArray[np.uint8]]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (h, w, 3), np.uint8) for h, w in ((3, 5), (6, 2), (4, 4))]


def test_a_process_gets_its_own_images_and_the_sizes_of_all() -> None:
    images = different()
    pixels, height, width = batches(images_of(images), Fixed(2, 1, 0, own=[0, 2]))(0)
    assert pixels.shape == (2, 4, 5, 3)
    np.testing.assert_array_equal(pixels[0, :4, :4], images[2])
    np.testing.assert_array_equal(pixels[1, :3, :5], images[0])
    assert isinstance(height, torch.Tensor)
    assert isinstance(width, torch.Tensor)
    assert (height.tolist(), width.tolist()) == ([4, 6, 3], [4, 2, 5])


def test_a_device_gathers_the_same_canvas() -> None:
    """What CUDA does with images that live there, on the CPU."""
    dataset = images_of(different())
    pixels = ResidentBatches(dataset, Fixed(2, 0, 1), CPU)(0).pixels.numpy()
    assert pixels.shape == (3, 6, 5, 3)
    for area, position in zip(pixels, (2, 0, 1), strict=True):
        image = dataset[position]
        np.testing.assert_array_equal(area[: image.shape[0], : image.shape[1]], image)
