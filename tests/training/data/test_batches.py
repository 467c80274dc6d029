from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from training.data.batches import Batches, Order, augmentation_seed
from training.data.dataset import ImageDataset

if TYPE_CHECKING:
    from numpy.typing import NDArray


def test_an_epoch_sees_each_image_once_but_for_the_broken_batch() -> None:
    order = Order(dataset=11, batch_size=4, seed=0)
    assert order.steps_per_epoch == 2
    for epoch in range(3):
        seen = np.concatenate([order(2 * epoch), order(2 * epoch + 1)])
        assert len(set(seen.tolist())) == 8
        assert seen.min() >= 0
        assert seen.max() <= 10


def test_epochs_and_seeds_differ() -> None:
    def epoch(seed: int, number: int) -> list[int]:
        return list(Order(dataset=50, batch_size=50, seed=seed)(number))

    assert epoch(0, 0) != epoch(0, 1)
    assert epoch(0, 0) != epoch(1, 0)
    left_out = {i for n in range(20) for i in set(range(11)) - set(Order(11, 10, 0)(n).tolist())}
    assert len(left_out) > 5


def test_any_step_can_be_the_first_to_be_asked_for() -> None:
    straight = Order(dataset=30, batch_size=7, seed=3)
    batches = [straight(step).tolist() for step in range(12)]
    for step in (11, 5, 0, 8):
        assert Order(dataset=30, batch_size=7, seed=3)(step).tolist() == batches[step]


def test_augmentation_seeds_are_all_different() -> None:
    seeds = {augmentation_seed(seed, step) for seed in range(3) for step in range(100)}
    assert len(seeds) == 300
    assert augmentation_seed(1, 2) == augmentation_seed(1, 2)


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


class Given(Order):
    """Every step has these images."""

    def __init__(self, *positions: int) -> None:
        super().__init__(len(positions), len(positions), 0)
        self._positions = np.array(positions)

    def __call__(self, step: int) -> NDArray[np.int64]:  # noqa: ARG002
        return self._positions


def batches(dataset: ImageDataset, order: Order, *own: int) -> Batches:
    return Batches(dataset, order, np.array(own), torch.device("cpu"))


def test_batches_are_the_images_asked_for() -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 4, 5, 3), np.uint8)
    batch = batches(images_of([*images]), Given(3, 0, 8), 0, 1, 2)(0)
    np.testing.assert_array_equal(batch.pixels.numpy(), images[[3, 0, 8]])
    assert (batch.height, batch.width) == (4, 5)


def different() -> list[NDArray[np.uint8]]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (h, w, 3), np.uint8) for h, w in ((3, 5), (6, 2), (4, 4))]


def test_a_process_gets_its_own_images_and_the_sizes_of_all() -> None:
    images = different()
    pixels, height, width = batches(images_of(images), Given(2, 1, 0), 0, 2)(0)
    assert pixels.shape == (2, 4, 5, 3)
    np.testing.assert_array_equal(pixels[0, :4, :4], images[2])
    np.testing.assert_array_equal(pixels[1, :3, :5], images[0])
    assert isinstance(height, torch.Tensor)
    assert isinstance(width, torch.Tensor)
    assert (height.tolist(), width.tolist()) == ([4, 6, 3], [4, 2, 5])


def test_a_device_gathers_the_same_canvas() -> None:
    """What CUDA does with images that live there, on the CPU."""
    dataset = images_of(different())
    made = batches(dataset, Given(2, 0, 1), 0, 1, 2)
    made._resident = torch.from_numpy(dataset.images)
    pixels = made(0).pixels.numpy()
    assert pixels.shape == (3, 6, 5, 3)
    for found, position in zip(pixels, (2, 0, 1), strict=True):
        image = dataset[position]
        np.testing.assert_array_equal(found[: image.shape[0], : image.shape[1]], image)
