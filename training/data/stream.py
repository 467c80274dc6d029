"""Images that are decoded again each time they are needed: sets too large for any cache.

Worker processes decode the batches of the next steps while the current one trains. Which images a
step has depends on seed and step alone, so a resumed run sees what the uninterrupted one sees. A
image that cannot be used is counted, and the next one in the source that can takes its place.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from base.cpus import available_cpus
from base.errors import ImageRefused, SourceError
from images.pixels.preprocess import preprocess
from training.data.batches import Batch, Batches
from training.data.cache import Form, chosen_items, in_order
from training.data.cache_file import stamp_of
from training.data.dataset import NO_LABEL, ImageDataset, RefusedImage, together

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from images.items import Item
    from images.pixels.preprocess import PreprocessSpec
    from images.sources.sources import Source
    from training.data.batches import Order

AHEAD = 2  # batches that each worker decodes ahead


@dataclass(frozen=True, kw_only=True)
class Streamed(ImageDataset):
    """All images of a source, usable or not; `images` is empty.

    `digest` is the stamp of the listing: nothing else is known without reading everything.
    """

    items: list[Item]
    form: Form
    damaged: dict[str, RefusedImage] = field(default_factory=dict)  # found so far, by key

    def __getitem__(self, position: int) -> NDArray[np.uint8]:
        """One image, or the one that takes its place."""
        image, refused = self.find(position)
        self.note(refused)
        return image

    def find(self, position: int) -> tuple[NDArray[np.uint8], list[RefusedImage]]:
        """Return the first usable image from a position on, and those before it that are not.

        Raises:
            SourceError: no image of the source is usable.
        """
        refused: list[RefusedImage] = []
        for step in range(len(self.items)):
            item = self.items[(position + step) % len(self.items)]
            found = self.form.load(item)
            if not isinstance(found, ImageRefused):
                return found, refused
            reason, message = str(found.reason), str(found)
            refused.append(RefusedImage(key=item.key, reason=reason, message=message))
        raise SourceError(f"no usable picture in {self.name}: {refused[0].message}")

    def note(self, refused: Iterable[RefusedImage]) -> None:
        """Count refused images, each once."""
        self.damaged.update((refusal.key, refusal) for refusal in refused)

    def refusals(self) -> tuple[RefusedImage, ...]:
        """Those met so far."""
        return tuple(self.damaged.values())

    def squares(self, positions: Iterable[int], spec: PreprocessSpec) -> NDArray[np.uint8]:
        """As `Images.squares`, decoded on all CPUs."""
        chosen = [int(position) for position in positions]
        decoded = in_order([self.items[position] for position in chosen], self.form)
        found = [
            preprocess(self[position] if isinstance(image, ImageRefused) else image, spec)
            for position, (_, image) in zip(chosen, decoded, strict=True)
        ]
        return (
            np.stack(found)
            if found
            else np.zeros((0, spec.size, spec.size, spec.channels), np.uint8)
        )


def open_stream(source: Source, form: Form, limit: int | None = None) -> Streamed:
    """List the images of a source without decoding any.

    Raises:
        SourceError: there are none.
    """
    items = chosen_items(source, limit)
    if not items:
        raise SourceError(f"{source.name} holds no pictures")
    index = {name: number for number, name in enumerate(source.classes)}
    labels = [NO_LABEL if item.label is None else index[item.label] for item in items]
    return Streamed(
        name=source.name,
        images=np.zeros((0, 3), np.uint8),
        labels=np.array(labels, np.int64),
        classes=tuple(source.classes),
        refused=(),
        digest=stamp_of(items, form.digest),
        items=items,
        form=form,
    )


class Decoded(NamedTuple):
    """What a worker hands over."""

    pixels: Tensor  # uint8 [B,H,W,C]
    sizes: Tensor  # float [2,B]: heights and widths
    refused: list[RefusedImage]


class StreamedBatches:
    """The batches of a run, decoded ahead in worker processes."""

    def __init__(
        self, dataset: Streamed, order: Order, own: NDArray[np.int64], device: torch.device
    ) -> None:
        self._dataset, self._order, self._own, self._device = dataset, order, own, device
        # on a CPU the steps need the cores
        self._workers = max(1, available_cpus() - 1) if device.type == "cuda" else 1
        self._decoded: Iterator[Decoded] | None = None
        self._next = -1

    def __call__(self, step: int) -> Batch:
        """Return the images of a step on the device, as `Batches` gives them."""
        if self._decoded is None or step != self._next:
            self._decoded = self._from(step)
        self._next = step + 1
        pixels, sizes, refused = next(self._decoded)
        self._dataset.note(refused)
        # the sizes of what other processes work on are theirs to know
        everyones = torch.ones(2, self._order.batch_size)
        everyones[:, torch.from_numpy(self._own)] = sizes
        height, width = everyones.to(self._device, non_blocking=True)
        return Batch(pixels.to(self._device, non_blocking=True), height, width)

    def _from(self, step: int) -> Iterator[Decoded]:
        loader: DataLoader[Decoded] = DataLoader(
            Decoder(self._dataset),
            sampler=Steps(self._order, self._own, step),
            batch_size=None,
            num_workers=self._workers,
            prefetch_factor=AHEAD,
            pin_memory=self._device.type == "cuda",
            worker_init_fn=_leave_signals,
        )
        return iter(loader)


class Decoder(Dataset[Decoded]):
    """Decodes whole batches."""

    def __init__(self, dataset: Streamed) -> None:
        self._dataset = dataset

    def __getitem__(self, positions: NDArray[np.int64]) -> Decoded:
        found = [self._dataset.find(position) for position in positions.tolist()]
        dataset = [image for image, _ in found]
        sizes = torch.tensor([image.shape[:2] for image in dataset]).float().t()
        refused = [refusal for _, several in found for refusal in several]
        return Decoded(torch.from_numpy(together(dataset)), sizes.contiguous(), refused)


class Steps:
    """The positions of the images of each step, from one step on, without end."""

    def __init__(self, order: Order, own: NDArray[np.int64], first: int) -> None:
        self._order, self._own, self._first = order, own, first

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        step = self._first
        while True:
            yield self._order(step)[self._own]
            step += 1


def _leave_signals(_worker: int) -> None:
    """Ctrl-C reaches all processes of a terminal; the run decides what it means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def batches_of(
    dataset: ImageDataset, order: Order, own: NDArray[np.int64], device: torch.device
) -> Batches | StreamedBatches:
    """Return the batches of a run.

    Args:
        dataset: from a cache or streamed.
        order: which images make up each step.
        own: int64 [B], the places in a step that this process works on.
        device: where the batches go.
    """
    if isinstance(dataset, Streamed):
        return StreamedBatches(dataset, order, own, device)
    return Batches(dataset, order, own, device)
