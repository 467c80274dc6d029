"""Features of the images that a projection is fitted on, embedded while they are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from base.errors import ImageRefused, SourceError, UsageError
from base.progress import Silent
from export.encoder_file.contract import FEATURES, INPUT
from export.encoder_file.session import make_session
from images.items import RefusedImage
from training.data.cache import Form, decode_in_order, select_items
from training.data.dataset import NO_LABEL
from training.data.sampling import spread
from training.protocols.crops import crop_pairs

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from base.progress import Progress
    from export.convert.onnx_graph import Draft
    from images.items import Item
    from images.sources.sources import Source

    Rows = NDArray[np.float32]  # [N,D]
    Encode = Callable[[list[NDArray[np.uint8]]], Rows]

BATCH = 32
MOST_FITTED = 50_000  # images; more are thinned out evenly
CROPPED = 300  # images that are searched for by a crop of theirs
EVERY = 5  # one image of so many is held out of the fit


@dataclass(frozen=True, kw_only=True)
class FittingFeatures:
    """What is known of the fitting images.

    Attributes:
        features: [N,D].
        labels: [N]; `NO_LABEL` where there is none.
        crops: features of two crops of some that are held out of the fit, [n,D] each.
        refused: images that could not be used.
        thinned_from: images of the source.
    """

    features: Rows
    labels: NDArray[np.int64]
    crops: tuple[Rows, Rows]
    refused: tuple[RefusedImage, ...]
    thinned_from: int


def held_out_mask(count: int) -> NDArray[np.bool_]:
    """Which of `count` images are held out of a fit."""
    mask = np.zeros(count, bool)
    mask[::EVERY] = True
    return mask


def embed_source(draft: Draft, source: Source, progress: Progress | None = None) -> FittingFeatures:
    """Decode and embed a source batch by batch: memory holds features, not images.

    Raises:
        SourceError: no image can be used.
        UsageError: the encoder computes values that are not numbers.
    """
    progress = progress or Silent()
    session, _ = make_session(draft.model.SerializeToString(), "cpu")

    def encode(images: list[NDArray[np.uint8]]) -> Rows:
        (rows,) = session.run([FEATURES], {INPUT: np.stack(images)})
        return np.asarray(rows, np.float32)

    items = select_items(source, None)
    total = len(items)
    if total > MOST_FITTED:
        items = [items[position] for position in spread(total, MOST_FITTED)]
        progress.message(f"{MOST_FITTED:,} of {total:,} pictures are fitted on, evenly spread")
    number = {name: index for index, name in enumerate(source.classes)}
    intake = _Intake(stride=max(1, len(items) // (EVERY * CROPPED)))
    blocks: list[Rows] = []
    progress.begin(f"encoding {source.name}", len(items))
    try:
        form = Form(spec=draft.contract.preprocess)
        for done, (item, image) in enumerate(decode_in_order(items, form), start=1):
            intake.add(item, image, NO_LABEL if item.label is None else number[item.label])
            if len(intake.batch) == BATCH:
                blocks.append(encode(intake.drain()))
            progress.update(done, f"{len(intake.refused)} refused" if intake.refused else "")
        if intake.batch:
            blocks.append(encode(intake.drain()))
    finally:
        progress.end()
    if not blocks:
        first = intake.refused[0]
        raise SourceError(
            f"no usable picture in {source.name}: all {len(intake.refused)} refused, the first one "
            f"({first.key}) because: {first.message}"
        )
    features = np.concatenate(blocks)
    check_finite(features)
    return FittingFeatures(
        features=features,
        labels=np.array(intake.labels, np.int64),
        crops=_crop_features(intake.cropped, encode),
        refused=tuple(intake.refused),
        thinned_from=total,
    )


class _Intake:
    """Images on their way into a batch, and a few that are kept to be cropped."""

    def __init__(self, stride: int) -> None:
        self._stride = stride
        self.batch: list[NDArray[np.uint8]] = []
        self.cropped: list[NDArray[np.uint8]] = []
        self.labels: list[int] = []
        self.refused: list[RefusedImage] = []

    def add(self, item: Item, image: NDArray[np.uint8] | ImageRefused, label: int) -> None:
        """Take the next image."""
        if isinstance(image, ImageRefused):
            reason, message = str(image.reason), str(image)
            self.refused.append(
                RefusedImage(item.key, item.uri, "load", reason=reason, message=message)
            )
            return
        position = len(self.labels)
        selected = position % EVERY == 0 and position // EVERY % self._stride == 0
        if selected and len(self.cropped) < CROPPED:
            self.cropped.append(image)
        self.labels.append(label)
        self.batch.append(image)

    def drain(self) -> list[NDArray[np.uint8]]:
        """Hand out the batch and begin another."""
        batch, self.batch = self.batch, []
        return batch


def _crop_features(images: list[NDArray[np.uint8]], encode: Encode) -> tuple[Rows, Rows]:
    sides: tuple[list[Rows], list[Rows]] = ([], [])
    for start in range(0, len(images), BATCH):
        pairs = crop_pairs(np.stack(images[start : start + BATCH]), seed=start)
        for side, crops in zip(sides, pairs, strict=True):
            side.append(encode([*crops]))
    return np.concatenate(sides[0]), np.concatenate(sides[1])


def check_finite(features: Rows) -> None:
    """Raise UsageError where features are not numbers."""
    broken = int((~np.isfinite(features).all(1)).sum())
    if broken:
        raise UsageError(
            f"the features of {broken} of {len(features)} pictures are not finite numbers: no "
            "projection can be fitted to them; the encoder is damaged, or its mean and std are not "
            "those of these pictures"
        )
