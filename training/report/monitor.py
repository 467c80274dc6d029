"""Does it work? Measured while the encoder trains: without labels, and with them where there are.

On a fixed few training images: alignment and uniformity of the projections z of two views, RankMe
and deviation of the features h (`protocols/geometry.py`), and an alarm where h has collapsed. With
labels also the kNN accuracy of h.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from training.data.dataset import NO_LABEL
from training.data.sampling import spread
from training.models.features import encode, imitate, small_pixels
from training.protocols.geometry import alignment, effective_rank, feature_std, uniformity
from training.protocols.knn import choose_k, knn_accuracy
from training.protocols.retrieval import QueryScores, query_scores, recall_at_k
from training.protocols.verdict import COLLAPSED_RANK, COLLAPSED_STD
from training.report.watched import Watched, draw_views

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from training.data.dataset import ImageDataset
    from training.data.training_data import TrainingData
    from training.models.simclr import SimCLR
    from training.recipes.recipe import Recipe

    Pixels = NDArray[np.uint8]  # [n,S,S,C]

GALLERY, QUERIES, WATCHED = 4000, 1000, 512  # images, at most
FEWEST, FEWEST_WATCHED = 500, 64  # queries and gallery together, watched: however short the run
BYTES = 200 * 2**20  # at most, for images of 224 px
SHARE = 0.02  # of a run's forward and backward passes that measuring may cost
DECIDING_SHARE = 0.1  # where it decides which weights are used
FORWARDS = 6  # a sample costs: two views, and a backward pass is two forward ones


NOTHING = QueryScores(np.zeros(0), np.zeros(0))


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What one look at the encoder gave."""

    figures: dict[str, float]  # by their names in metrics.jsonl
    features: NDArray[np.float32]  # h [W,D] of the watched images
    alarm: str | None  # what is wrong and what to change
    queries: QueryScores = NOTHING  # of each; empty without labels
    unmapped_figures: dict[str, float] = field(default_factory=dict)  # a student's without its map
    unmapped: QueryScores | None = None


class Monitor:
    """Looks at the encoder; all images are prepared once.

    kNN: with an evaluation set its images are the queries and the training images the gallery.
    Without, images that are held out of training ask the others. Where none are, a fifth of the
    training images ask: the encoder has seen those, but never a label.
    """

    def __init__(
        self,
        recipe: Recipe,
        dataset: TrainingData,
        evaluation: ImageDataset | None,
        held_out: NDArray[np.int64] | None = None,
    ) -> None:
        self._recipe, self._data = recipe, recipe.data
        watched, searched = affordable(recipe, len(dataset))
        fits = BYTES // (3 * self._data.image_size**2)
        held_out = np.zeros(0, np.int64) if held_out is None else held_out
        labeled = np.flatnonzero(dataset.labels != NO_LABEL)
        unseen = len(held_out) >= FEWEST_WATCHED and len(np.unique(dataset.labels[labeled])) < 2
        pool = held_out if unseen else np.arange(len(dataset))
        self.watched = self._watch(dataset, _at_most(pool, min(watched, fits // 6)))
        fits = min(searched, fits)
        gallery_size, query_count = min(GALLERY, fits * 4 // 5), min(QUERIES, fits // 5)
        self._origin = "training pictures" if evaluation is None else "the evaluation set"
        self._start: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None
        if evaluation is None:
            queries = np.intersect1d(labeled, held_out)
            if len(queries):
                self._origin = "pictures held out of training"
            else:
                queries = labeled[spread(len(labeled), len(labeled) // 5)]
            gallery = np.setdiff1d(labeled, queries)
            self._queries, self._query_labels = self._take(dataset, queries, query_count)
            self._asking = _at_most(queries, query_count)
        else:
            gallery = labeled
            # classes are matched by name; one that training does not know cannot be found
            number = {name: i for i, name in enumerate(dataset.classes)}
            renamed = [number.get(name, NO_LABEL) for name in evaluation.classes]
            labels = np.array([*renamed, NO_LABEL], np.int64)[evaluation.labels]
            matching = np.flatnonzero(labels != NO_LABEL)
            self._queries, _ = self._take(evaluation, matching, query_count)
            self._asking = _at_most(matching, query_count)
            self._query_labels = labels[self._asking]
        self._searched = _at_most(gallery, gallery_size)
        self._gallery, self._gallery_labels = self._take(dataset, gallery, gallery_size)

    @property
    def labeled(self) -> bool:
        """Whether there are queries, and two classes to distinguish: kNN is measured."""
        return len(self._query_labels) > 0 and len(np.unique(self._gallery_labels)) > 1

    def compare_with_start(
        self, embeddings: NDArray[np.float32], evaluation: NDArray[np.float32] | None
    ) -> None:
        """Let the first measurement be that of the start as it was made to be used.

        Args:
            embeddings: the start's of the training images [N,D], at its own size.
            evaluation: of the evaluation set, where there is one.
        """
        queries = embeddings if evaluation is None else evaluation
        self._start = queries[self._asking], embeddings[self._searched]

    def measure_start(self, model: SimCLR) -> Measurement:
        """All figures of the encoder before its first step."""
        seen = self.measure(model)
        if self._start is None or not len(seen.queries.map_at_r):
            return seen
        figures, queries = self._score(*self._start)
        return replace(seen, figures=seen.figures | figures, queries=queries)

    def measure(self, model: SimCLR) -> Measurement:
        """All figures of the encoder as it is; it is left in the mode it came in."""
        seen, z = self._encode_and_project(model, self.watched.views)
        first, second = np.split(z, 2)
        features = self._encode(model, self.watched.images)
        figures = {
            "alignment": alignment(first, second),
            "uniformity": uniformity(first),
            "rankme": effective_rank(features),
            "feature_std": feature_std(features),
            "view_recall": _pair_recall(seen),
        }
        scores, queries = self._scores(lambda images: self._encode(model, images))
        figures |= scores
        unmapped_figures: dict[str, float] = {}
        unmapped = None
        if model.imitation is not None and self._recipe.adaptation.keep_best:
            unmapped_figures, unmapped = self._scores(lambda images: self._features(model, images))
        return Measurement(
            figures=figures,
            features=features,
            alarm=self._alarm(figures),
            queries=queries,
            unmapped_figures=unmapped_figures,
            unmapped=unmapped,
        )

    def accuracy(self, model: SimCLR) -> float:
        """Return the kNN accuracy of the encoder's features h, in [0,1]."""
        queries, gallery = self._encode(model, self._queries), self._encode(model, self._gallery)
        return knn_accuracy(queries, self._query_labels, gallery, self._gallery_labels)

    def baselines(self) -> dict[str, Any]:
        """Return what the figures are compared with, beside the encoder at step 0.

        Returns:
            "pixels" and "random", figures of pixels and of an order that is drawn; "queries", how
            many images are searched for; "drawn_from", which; with labels also "k" of kNN.
        """
        matched = np.isin(self._query_labels, self._gallery_labels)
        if not self.labeled or not matched.any():
            chance = {"view_recall": 1 / max(1, len(self.watched.images))}
            facts: dict[str, Any] = {
                "queries": len(self.watched.images),
                "drawn_from": "views among views",
            }
        else:
            same = self._query_labels[matched, None] == self._gallery_labels
            chance = {"recall_at_1": float(same.mean())}
            facts = {"queries": int(matched.sum()), "k": choose_k(self._gallery_labels)}
            facts["drawn_from"] = self._origin
        pixels = self._scores(small_pixels)[0] | {
            "view_recall": _pair_recall(small_pixels(self.watched.views))
        }
        return facts | {"pixels": pixels, "random": chance}

    def _scores(
        self, features: Callable[[Pixels], NDArray[np.float32]]
    ) -> tuple[dict[str, float], QueryScores]:
        """Return how the queries find their class, all and each; nothing without labels."""
        if not self.labeled:
            return {}, NOTHING
        return self._score(features(self._queries), features(self._gallery))

    def _score(
        self, queries: NDArray[np.float32], gallery: NDArray[np.float32]
    ) -> tuple[dict[str, float], QueryScores]:
        """Return the figures of features of queries and gallery, of all and of each query."""
        sides = queries, self._query_labels, gallery, self._gallery_labels
        figures = {"knn_accuracy": knn_accuracy(*sides)}
        each = query_scores(*sides)
        if len(each.map_at_r):
            figures |= {"recall_at_1": float(each.recall_at_1.mean())}
            figures |= {"map_at_r": float(each.map_at_r.mean())}
        return figures, each

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
        return encode(model.embedder, images, mean=self._data.mean, std=self._data.std)

    def _encode_and_project(
        self, model: SimCLR, images: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return what is used of images, and their projections z."""
        h = self._features(model, images)
        return imitate(model, h), _project(model, h)

    def _features(self, model: SimCLR, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return h, a student's without its map."""
        return encode(model.encoder, images, mean=self._data.mean, std=self._data.std)

    def _watch(self, dataset: TrainingData, sample: NDArray[np.int64]) -> Watched:
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
    """How many images to watch, and how many to ask and search: within a share of the run.

    A watched image is encoded three times (itself and two views), the others once.
    """
    measurements = recipe.training.evaluations + 1
    samples = recipe.steps(dataset) * recipe.training.batch_size
    share = DECIDING_SHARE if recipe.adaptation.keep_best else SHARE
    forwards = int(share * FORWARDS * samples / measurements)
    watched = min(WATCHED, max(FEWEST_WATCHED, forwards // 12))
    return watched, min(GALLERY + QUERIES, max(FEWEST, forwards - 3 * watched))


@torch.inference_mode()
def _project(model: SimCLR, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Projections z [N,E] of features h [N,D], in evaluation mode."""
    training = model.head.training
    model.head.eval()
    try:
        device = next(model.parameters()).device
        z: torch.Tensor = model.head(torch.from_numpy(features).to(device))
        return np.asarray(z.float().cpu().numpy(), np.float32)
    finally:
        model.head.train(training)


def _pair_recall(rows: NDArray[np.float32]) -> float:
    """Share of first views whose nearest of all second views is of the same image; rows [2W,D]."""
    first, second = np.split(rows, 2)
    numbers = np.arange(len(first))
    return recall_at_k(first, numbers, second, numbers, k=1)


def _at_most(positions: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    return positions[spread(len(positions), count)]
