"""Does it work? Measured while the encoder trains: without labels, and with them where there are.

On a fixed few training images: alignment and uniformity of the projections z of two views, RankMe
and deviation of the features h (`protocols/geometry.py`), and an alarm where h has collapsed. With
labels also the kNN accuracy of h.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from training.augment.augment import two_views
from training.data.dataset import NO_LABEL
from training.data.sampling import spread
from training.models.features import encode
from training.protocols.geometry import alignment, effective_rank, feature_std, uniformity
from training.protocols.knn import knn_accuracy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from training.data.dataset import ImageDataset
    from training.data.training_data import TrainingData
    from training.models.simclr import SimCLR
    from training.recipes.recipe import Recipe

GALLERY, QUERIES, WATCHED = 4000, 1000, 512  # images, at most
FEWEST, FEWEST_WATCHED = 500, 64  # queries and gallery together, watched: however short the run
BYTES = 200 * 2**20  # at most, for images of 224 px
SHARE = 0.02  # of a run's forward and backward passes that measuring may cost
FORWARDS = 6  # a sample costs: two views, and a backward pass is two forward ones
CHUNK = 64  # images whose views are made at a time

# Below either, all images look alike to the encoder. Untrained ResNet-18s of width 1/8 to 1 were
# seen at deviations of 0.08 to 0.26 and RankMe of 5 to 68.
COLLAPSED_STD, COLLAPSED_RANK = 0.02, 1.2


@dataclass(frozen=True, kw_only=True)
class Watched:
    """The fixed images a run is watched on, and their views, the same at each measurement."""

    images: NDArray[np.uint8]  # [W,S,S,3] as the finished encoder sees them
    views: NDArray[np.uint8]  # [2W,S,S,3], first views first, as the recipe augments
    labels: NDArray[np.int64]  # [W], NO_LABEL where there is none
    classes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What one look at the encoder gave."""

    figures: dict[str, float]  # by their names in metrics.jsonl
    features: NDArray[np.float32]  # h [W,D] of the watched images
    alarm: str | None  # what is wrong and what to change


class Monitor:
    """Looks at the encoder; all images are prepared once.

    kNN: with an evaluation set its images are the queries and the training images the gallery.
    Without, a fifth of the training images are queries and the others the gallery: the encoder
    has seen the queries, but never a label.
    """

    def __init__(
        self, recipe: Recipe, dataset: TrainingData, evaluation: ImageDataset | None
    ) -> None:
        self._recipe, self._data = recipe, recipe.data
        watched, searched = affordable(recipe, len(dataset))
        fits = BYTES // (3 * self._data.image_size**2)
        self.watched = self._watch(dataset, min(watched, fits // 6))
        fits = min(searched, fits)
        gallery_size, query_count = min(GALLERY, fits * 4 // 5), min(QUERIES, fits // 5)
        labeled = np.flatnonzero(dataset.labels != NO_LABEL)
        if evaluation is None:
            queries = labeled[spread(len(labeled), len(labeled) // 5)]
            gallery = np.setdiff1d(labeled, queries)
            self._queries, self._query_labels = self._take(dataset, queries, query_count)
        else:
            gallery = labeled
            # classes are matched by name; one that training does not know cannot be found
            number = {name: i for i, name in enumerate(dataset.classes)}
            renamed = [number.get(name, NO_LABEL) for name in evaluation.classes]
            labels = np.array([*renamed, NO_LABEL], np.int64)[evaluation.labels]
            matching = np.flatnonzero(labels != NO_LABEL)
            self._queries, _ = self._take(evaluation, matching, query_count)
            self._query_labels = labels[_at_most(matching, query_count)]
        self._gallery, self._gallery_labels = self._take(dataset, gallery, gallery_size)

    @property
    def labeled(self) -> bool:
        """Whether there are queries, and two classes to distinguish: kNN is measured."""
        return len(self._query_labels) > 0 and len(np.unique(self._gallery_labels)) > 1

    def measure(self, model: SimCLR) -> Measurement:
        """All figures of the encoder as it is; it is left in the mode it came in."""
        first, second = np.split(self._projections(model), 2)
        features = self._encode(model, self.watched.images)
        figures = {
            "alignment": alignment(first, second),
            "uniformity": uniformity(first),
            "rankme": effective_rank(features),
            "feature_std": feature_std(features),
        }
        if self.labeled:
            figures["knn_accuracy"] = self.accuracy(model)
        return Measurement(figures=figures, features=features, alarm=self._alarm(figures))

    def accuracy(self, model: SimCLR) -> float:
        """Return the kNN accuracy of the encoder's features h, in [0,1]."""
        queries, gallery = self._encode(model, self._queries), self._encode(model, self._gallery)
        return knn_accuracy(queries, self._query_labels, gallery, self._gallery_labels)

    def _alarm(self, figures: dict[str, float]) -> str | None:
        deviation, rank = figures["feature_std"], figures["rankme"]
        if deviation >= COLLAPSED_STD and rank >= COLLAPSED_RANK:
            return None
        loss, schedule = self._recipe.loss, self._recipe.schedule
        remedy = f"a lower schedule.learning_rate (now {schedule.learning_rate:g})"
        if not 0.05 <= loss.temperature <= 1:
            remedy = f"loss.temperature between 0.05 and 1 (now {loss.temperature:g})"
        return (
            f"the encoder has collapsed: all pictures have nearly the same features (deviation "
            f"{deviation:.2g} of 1, RankMe {rank:.3g}). Start again with {remedy}"
        )

    def _encode(self, model: SimCLR, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return encode(model.encoder, images, mean=self._data.mean, std=self._data.std)

    def _projections(self, model: SimCLR) -> NDArray[np.float32]:
        """Projections z [2W,E] of the watched images' views, in evaluation mode."""
        return encode(model, self.watched.views)  # the model normalizes by itself

    def _watch(self, dataset: TrainingData, count: int) -> Watched:
        sample = spread(len(dataset), count)
        return Watched(
            images=dataset.squares(sample, self._data.evaluation),
            views=draw_views(dataset.squares(sample, self._data.stored), self._recipe),
            labels=dataset.labels[sample],
            classes=dataset.classes,
        )

    def _take(
        self, dataset: TrainingData, positions: NDArray[np.int64], count: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        sample = _at_most(positions, count)
        return dataset.squares(sample, self._data.evaluation), dataset.labels[sample]


def affordable(recipe: Recipe, dataset: int) -> tuple[int, int]:
    """How many images to watch, and how many to ask and search: within `SHARE` of the run.

    A watched image is encoded three times (itself and two views), the others once.
    """
    measurements = recipe.training.evaluations + 1
    samples = recipe.steps(dataset) * recipe.training.batch_size
    forwards = int(SHARE * FORWARDS * samples / measurements)
    watched = min(WATCHED, max(FEWEST_WATCHED, forwards // 12))
    return watched, min(GALLERY + QUERIES, max(FEWEST, forwards - 3 * watched))


def draw_views(stored: NDArray[np.uint8], recipe: Recipe) -> NDArray[np.uint8]:
    """Two views of each stored image [W,T,T,3] -> [2W,S,S,3], always the same ones."""
    size, generator = recipe.data.image_size, torch.Generator().manual_seed(0)
    halves: list[list[NDArray[np.uint8]]] = [[], []]
    for start in range(0, len(stored), CHUNK):
        batch = torch.from_numpy(np.array(stored[start : start + CHUNK]))
        views = two_views(batch, recipe.augmentation, size, generator)
        pixels = (views * 255).round_().byte().permute(0, 2, 3, 1).numpy()
        for half, made in zip(halves, np.split(pixels, 2), strict=True):
            half.append(made)
    return np.concatenate([*halves[0], *halves[1]])


def _at_most(positions: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    return positions[spread(len(positions), count)]
