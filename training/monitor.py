"""kNN accuracy while the encoder trains, where there are labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from images.preprocess import PreprocessSpec, preprocess
from training.features import encode
from training.pictures import NO_LABEL, Pictures
from training.protocols.knn import knn_accuracy
from training.sampling import spread

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from training.model import SimCLR
    from training.recipe import Data

# At these sizes ten measurements cost some two per cent of a run of 400,000 samples.
GALLERY, QUERIES = 4000, 1000
BYTES = 200 * 2**20  # at most, for pictures of 224 px


class KnnMonitor:
    """Queries and gallery, prepared once.

    With an evaluation set its pictures are the queries and the training pictures the gallery.
    Without, a fifth of the training pictures are queries and the others the gallery: the encoder
    has seen the queries, but never a label.
    """

    def __init__(self, data: Data, pictures: Pictures, evaluation: Pictures | None) -> None:
        self._data = data
        fits = BYTES // (3 * data.image_size**2)
        gallery_size, query_count = min(GALLERY, fits * 4 // 5), min(QUERIES, fits // 5)
        labelled = np.flatnonzero(pictures.labels != NO_LABEL)
        if evaluation is None:
            queries = labelled[spread(len(labelled), len(labelled) // 5)]
            gallery = np.setdiff1d(labelled, queries)
            self._queries, self._query_labels = self._take(pictures, queries, query_count)
        else:
            gallery = labelled
            # classes are matched by name; one that training does not know cannot be found
            number = {name: i for i, name in enumerate(pictures.classes)}
            renamed = [number.get(name, NO_LABEL) for name in evaluation.classes]
            labels = np.array([*renamed, NO_LABEL], np.int64)[evaluation.labels]
            known = np.flatnonzero(labels != NO_LABEL)
            self._queries, _ = self._take(evaluation, known, query_count)
            self._query_labels = labels[_at_most(known, query_count)]
        self._gallery, self._gallery_labels = self._take(pictures, gallery, gallery_size)

    @property
    def possible(self) -> bool:
        """Whether there are queries, and two classes to tell apart."""
        return len(self._query_labels) > 0 and len(np.unique(self._gallery_labels)) > 1

    def accuracy(self, model: SimCLR) -> float:
        """The kNN accuracy of the encoder's features h, in [0,1]."""
        data, encoder = self._data, model.encoder
        queries = encode(encoder, self._queries, mean=data.mean, std=data.std)
        gallery = encode(encoder, self._gallery, mean=data.mean, std=data.std)
        return knn_accuracy(queries, self._query_labels, gallery, self._gallery_labels)

    def _take(
        self, pictures: Pictures, positions: NDArray[np.int64], count: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        chosen = _at_most(positions, count)
        return _as_seen(pictures.images[chosen], self._data.evaluation), pictures.labels[chosen]


def _at_most(positions: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    return positions[spread(len(positions), count)]


def _as_seen(images: NDArray[np.uint8], spec: PreprocessSpec) -> NDArray[np.uint8]:
    """Stored pictures [N,T,T,3] as the finished encoder would see them, [N,S,S,3]."""
    if images.shape[1] == spec.size and spec.resize_to in {None, spec.size}:
        return images
    seen = [preprocess(image, spec) for image in images]
    return np.stack(seen) if seen else np.zeros((0, spec.size, spec.size, 3), np.uint8)
