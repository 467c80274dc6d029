"""Images that are decoded again each time they are needed: sets too large for any cache.

Worker processes decode the batches of the next steps while the current one trains. Which images a
step has depends on seed and step alone, so a resumed run sees what the uninterrupted one sees. A
image that cannot be used is counted, and the next usable one of the source stands in for it.
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
from images.items import RefusedImage
from training.data.batches import BatchReader, ImageBatch
from training.data.cache import Form, decode_in_order, select_items
from training.data.cache_file import stamp_of
from training.data.dataset import NO_LABEL, stack_squares
from training.data.pixel_array import pad_to_canvas

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from images.items import Item
    from images.pixels.preprocess import PreprocessSpec
    from images.sources.sources import Source
    from training.data.order import Order

AHEAD = 2  # batches that each worker decodes ahead


@dataclass(frozen=True, kw_only=True)
class StreamedDataset:
    """All images of a source, usable or not, decoded whenever they are needed.

    `digest` is the stamp of the listing: nothing else is known without reading everything. So is
    `refused`: who could not be used shows during the run, see `refusals`.
    """

    name: str
    items: list[Item]
    form: Form
    labels: NDArray[np.int64]  # [N], an index into classes or NO_LABEL
    classes: tuple[str, ...]
    digest: str
    refused: tuple[RefusedImage, ...] = ()  # before the run
    seen_refused: dict[str, RefusedImage] = field(default_factory=dict)  # so far, by key

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, position: int) -> NDArray[np.uint8]:
        """One image, or the one that stands in for it."""
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
            result = self.form.load(item)
            if not isinstance(result, ImageRefused):
                return result, refused
            reason, message = str(result.reason), str(result)
            refused.append(RefusedImage(item.key, item.uri, "load", reason, message))
        raise SourceError(f"no usable picture in {self.name}: {refused[0].message}")

    def note(self, refused: Iterable[RefusedImage]) -> None:
        """Count refused images, each once."""
        self.seen_refused.update((refusal.key, refusal) for refusal in refused)

    def refusals(self) -> tuple[RefusedImage, ...]:
        """Return the images that could not be used, as far as they were met."""
        return tuple(self.seen_refused.values())

    def squares(self, positions: Iterable[int], spec: PreprocessSpec) -> NDArray[np.uint8]:
        """Return some images as the spec prepares them, [n,S,S,C], decoded on all CPUs."""
        indices = [int(position) for position in positions]
        decoded = decode_in_order([self.items[position] for position in indices], self.form)
        images = [
            self[position] if isinstance(image, ImageRefused) else image
            for position, (_, image) in zip(indices, decoded, strict=True)
        ]
        return stack_squares(images, spec)

    def batches(self, order: Order, device: torch.device) -> BatchReader:
        """Return the reader of the batches of a run."""
        return StreamedBatches(self, order, device)


def open_stream(source: Source, form: Form, limit: int | None = None) -> StreamedDataset:
    """List the images of a source without decoding any.

    Raises:
        SourceError: there are none.
    """
    items = select_items(source, limit)
    if not items:
        raise SourceError(f"{source.name} holds no pictures")
    index = {name: number for number, name in enumerate(source.classes)}
    labels = [NO_LABEL if item.label is None else index[item.label] for item in items]
    return StreamedDataset(
        name=source.name,
        labels=np.array(labels, np.int64),
        classes=tuple(source.classes),
        digest=stamp_of(items, form.digest),
        items=items,
        form=form,
    )


class DecodedBatch(NamedTuple):
    """What a worker hands over."""

    pixels: Tensor  # uint8 [b,H,W,C]
    sizes: Tensor  # float [2,b]: heights and widths
    refused: list[RefusedImage]


class StreamedBatches:
    """The batches of a run, decoded ahead in worker processes."""

    def __init__(self, dataset: StreamedDataset, order: Order, device: torch.device) -> None:
        self._dataset, self._order, self._device = dataset, order, device
        # on a CPU the steps need the cores
        self._workers = max(1, available_cpus() - 1) if device.type == "cuda" else 1
        self._decoded: Iterator[DecodedBatch] | None = None
        self._next = -1

    def __call__(self, step: int) -> ImageBatch:
        """Return the images of a step on the device, decoded ahead while the step before it ran."""
        if self._decoded is None or step != self._next:
            self._decoded = self._from(step)
        self._next = step + 1
        pixels, sizes, refused = next(self._decoded)
        self._dataset.note(refused)
        # the sizes of other processes' images are not needed here
        all_sizes = torch.ones(2, self._order.batch_size)
        all_sizes[:, torch.from_numpy(self._order.own)] = sizes
        height, width = all_sizes.to(self._device, non_blocking=True)
        return ImageBatch(pixels.to(self._device, non_blocking=True), height, width)

    def _from(self, step: int) -> Iterator[DecodedBatch]:
        loader: DataLoader[DecodedBatch] = DataLoader(
            BatchDecoder(self._dataset),
            sampler=StepSampler(self._order, step),
            batch_size=None,
            num_workers=self._workers,
            prefetch_factor=AHEAD,
            pin_memory=self._device.type == "cuda",
            worker_init_fn=_ignore_sigint,
        )
        return iter(loader)


class BatchDecoder(Dataset[DecodedBatch]):
    """Decodes whole batches."""

    def __init__(self, dataset: StreamedDataset) -> None:
        self._dataset = dataset

    def __getitem__(self, positions: NDArray[np.int64]) -> DecodedBatch:
        results = [self._dataset.find(position) for position in positions.tolist()]
        images = [image for image, _ in results]
        sizes = torch.tensor([image.shape[:2] for image in images]).float().t()
        refused = [refusal for _, several in results for refusal in several]
        return DecodedBatch(torch.from_numpy(pad_to_canvas(images)), sizes.contiguous(), refused)


class StepSampler:
    """The positions of the images of each step, from one step on, without end."""

    def __init__(self, order: Order, first: int) -> None:
        self._order, self._first = order, first

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        step = self._first
        while True:
            yield self._order(step)[self._order.own]
            step += 1


def _ignore_sigint(_worker: int) -> None:
    """Ctrl-C reaches all processes of a terminal; the run decides what it means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
