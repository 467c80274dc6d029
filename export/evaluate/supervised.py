"""The protocols that learn from augmented images: the linear probe by SGD, and fine-tuning."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from base.errors import UsageError
from export.encoder_file.contract import FEATURES
from export.evaluate.evaluated_model import labels_of
from export.evaluate.vector_scores import classifier_scores
from training.data.cache import decode_source
from training.models.features import encode
from training.protocols.splits import balanced_split, query_split
from training.protocols.supervised import Lesson, learn_classifier
from training.train import CACHE_IN_MEMORY

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from base.progress import Progress
    from export.evaluate.evaluated_model import Subject
    from export.evaluate.evaluation import Settings
    from export.evaluate.vector_scores import Outcome
    from images.items import RefusedImage
    from images.pixels.preprocess import PreprocessSpec
    from images.sources.sources import Source
    from training.data.dataset import ImageDataset
    from training.data.settings import DataSettings
    from training.models.simclr import SimCLR

    Pixels = NDArray[np.uint8]

FINETUNE_FRACTION = 0.01  # of the labels, where none is asked for


def learn_and_test(
    subject: Subject,
    source: Source,
    train: Source | None,
    settings: Settings,
    *,
    whole: bool,
    limit: int | None,
    progress: Progress,
    refused: list[RefusedImage],
) -> Outcome:
    """Learn a classifier on each draw of the labels and test it; see `vector_scores`.

    Args:
        subject: a run.
        source: what is tested; a fifth of it where `train` is None, and the rest is learned from.
        train: labeled images to learn from.
        settings: fraction, seeds, epochs, batch size.
        whole: fine-tune all weights; otherwise the linear probe.
        limit: images of each source.
        progress: shows how far the work is.
        refused: the images that cannot be used are added to it.

    Raises:
        UsageError: the subject is an encoder file.
        ValueError: too few images or classes.
    """
    if subject.build is None or subject.recipe is None:
        raise UsageError(
            f"{subject.path} is an encoder file, and learning from augmented pictures needs its "
            "run: give the run folder, or --protocol linear with --solver lbfgs"
        )
    with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:

        def decoded(one: Source, spec: PreprocessSpec, name: str) -> ImageDataset:
            dataset = decode_source(
                one,
                spec,
                limit=limit,
                folder=Path(folder, name),
                memory_limit=CACHE_IN_MEMORY,
                progress=progress,
            )
            refused.extend(dataset.refused)
            return dataset

        material = _material(subject.recipe.data, source, train, decoded)
        classes = np.unique(material.names)
        if len(classes) < 2 or not len(material.tested):
            raise ValueError("it needs pictures of two classes to learn from, and some to test")
        learner = _Learner(subject, settings, material, whole=whole, progress=progress)
        logits = [learner(seed) for seed in range(settings.seeds)]
    position = np.minimum(np.searchsorted(classes, material.tested_names), len(classes) - 1)
    labels = np.where(classes[position] == material.tested_names, position, -1)  # -1: not learned
    scores = classifier_scores(logits, labels)
    per_seed = [float(np.mean(rows.argmax(1) == labels)) for rows in logits]
    space = "fine-tuned" if whole else FEATURES
    details: dict[str, Any] = {"per_seed": {space: per_seed}} if settings.seeds > 1 else {}
    return {space: scores}, len(labels), learner.learned_from, details


@dataclass(frozen=True, kw_only=True)
class _Material:
    """What is learned from, and what is tested."""

    images: Pixels  # [N,T,T,C], perhaps memory-mapped
    labeled: NDArray[np.int64]  # [n], positions of those with a label
    names: NDArray[np.str_]  # [n]
    tested: Pixels  # [Q,S,S,C] as the encoder sees them
    tested_names: NDArray[np.str_]  # [Q]


def _material(
    data: DataSettings,
    source: Source,
    train: Source | None,
    decoded: Callable[[Source, PreprocessSpec, str], ImageDataset],
) -> _Material:
    learned = decoded(source if train is None else train, data.stored, "learned")
    labeled, names = labels_of(learned)
    if train is None:
        asking = query_split(len(names))
        tested, positions, tested_names = learned, labeled[asking], names[asking]
        labeled, names = labeled[~asking], names[~asking]
    else:
        tested = decoded(source, data.evaluation, "tested")
        positions, tested_names = labels_of(tested)
    return _Material(
        images=learned.images,
        labeled=labeled,
        names=names,
        tested=tested.squares(positions, data.evaluation),
        tested_names=tested_names,
    )


class _Learner:
    """Learns on a new copy of the network at each call."""

    def __init__(
        self,
        subject: Subject,
        settings: Settings,
        material: _Material,
        *,
        whole: bool,
        progress: Progress,
    ) -> None:
        self._subject, self._settings, self._material = subject, settings, material
        self._whole, self._progress = whole, progress
        self._labels = np.searchsorted(np.unique(material.names), material.names)
        self.learned_from = 0  # images

    def __call__(self, seed: int) -> NDArray[np.float32]:
        """Logits of the tested images [Q,C]."""
        assert self._subject.build is not None
        assert self._subject.recipe is not None
        settings, data = self._settings, self._subject.recipe.data
        fraction = settings.label_fraction or (FINETUNE_FRACTION if self._whole else 1.0)
        labels, everything = self._labels, np.ones(len(self._labels), bool)
        subset = balanced_split(labels, fraction, seed) if fraction < 1 else everything
        self.learned_from = int(subset.sum())
        epochs, batch = settings.epochs, settings.batch_size
        if self._whole:
            lesson = Lesson.finetune(fraction, epochs=epochs, batch_size=batch, seed=seed)
        else:
            lesson = Lesson.linear(epochs=epochs, batch_size=batch, seed=seed)
        network, width = _under(self._subject.build(), from_head=settings.from_head)
        classifier = learn_classifier(
            network,
            width,
            self._material.images,
            self._material.labeled[subset],
            labels[subset],
            lesson=lesson,
            size=data.image_size,
            mean=data.mean,
            std=data.std,
            progress=self._progress,
        )
        features = encode(network, self._material.tested, mean=data.mean, std=data.std)
        with torch.inference_mode():
            rows = torch.from_numpy(features).to(classifier.weight.device)
            return np.asarray(classifier(rows).cpu().numpy(), np.float32)


def _under(model: SimCLR, *, from_head: bool) -> tuple[nn.Module, int]:
    """Return what the classifier stands on, and its width.

    The encoder; or, as Chen et al. 2020b (section 2) fine-tune a deep head, the encoder and the
    head's first layer with its batch norm and ReLU.
    """
    if not from_head:
        return model.embedder, model.embedder.feature_dim
    layer = [*model.head.children()][:3]
    width = layer[0].out_features
    assert isinstance(width, int)
    return nn.Sequential(model.encoder, *layer), width
