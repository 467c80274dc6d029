"""The protocols that need vectors alone: kNN, the solved linear probe, retrieval."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from export.evaluate.evaluation import Protocol, Score, Scores, Settings
from training.protocols.intervals import around, wilson
from training.protocols.knn import choose_k, knn_accuracy
from training.protocols.linear import GRID, linear_probe
from training.protocols.retrieval import retrieval_scores
from training.protocols.splits import balanced_split, query_split
from training.protocols.supervised import top_k

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from base.progress import Progress
    from export.evaluate.evaluated_model import Labeled

    Outcome = tuple[dict[str, Scores], int, int, dict[str, Any]]
    Rows = NDArray[np.float32]
    Numbers = NDArray[np.int64]

DEPTHS = (1, 5, 10)
TOP = 5


def vector_scores(
    protocol: Protocol,
    tested: Labeled,
    gallery: Labeled | None,
    settings: Settings,
    progress: Progress,
) -> Outcome:
    """Return scores by space, the number of queries, the size of the gallery, and details.

    Args:
        protocol: "knn", "linear" or "retrieval".
        tested: what is tested, or searches.
        gallery: what is learned from or searched; None: a share of `tested`, or all of it.
        settings: the protocol's numbers.
        progress: shows how far the work is.

    Raises:
        ValueError: too few images for the protocol.
    """
    if protocol == "retrieval":
        return search_scores(tested, gallery)
    tested, gallery = split(tested, gallery)
    queries, truth = numbered(tested, gallery)
    if protocol == "knn":
        return knn_scores(tested, queries, gallery, truth, settings)
    return probe_scores(tested, queries, gallery, truth, settings, progress=progress)


def split(tested: Labeled, gallery: Labeled | None) -> tuple[Labeled, Labeled]:
    """Return what is tested and what is learned from: without a gallery, a fifth and the rest."""
    if gallery is not None:
        return tested, gallery
    asking = query_split(len(tested.labels))
    return tested.select(asking), tested.select(~asking)


def numbered(*sides: Labeled) -> list[Numbers]:
    """Number the classes in the same way in all sides, those of the last side first.

    So a classifier of the last side has no class that it has never seen.
    """
    names = np.unique(sides[-1].labels)
    others = np.setdiff1d(np.concatenate([side.labels for side in sides]), names)
    order = np.concatenate([names, others])
    index = {str(name): number for number, name in enumerate(order)}
    return [np.array([index[str(x)] for x in side.labels], np.int64) for side in sides]


def knn_scores(
    tested: Labeled, labels: Numbers, gallery: Labeled, truth: Numbers, settings: Settings
) -> Outcome:
    """Score the weighted vote of the nearest neighbors, on each draw of the labels."""
    spaces: dict[str, Scores] = {}
    per_seed: dict[str, list[float]] = {}
    subsets = [_subset(truth, settings, seed) for seed in range(settings.seeds)]
    k = choose_k(truth[subsets[0]]) if settings.k is None else settings.k
    for space, queries in tested.vectors.items():
        rows = gallery.vectors[space]
        per_seed[space] = [
            knn_accuracy(
                queries,
                labels,
                rows[subset],
                truth[subset],
                k=k,
                temperature=settings.temperature,
            )
            for subset in subsets
        ]
        spaces[space] = {"knn_accuracy": averaged(per_seed[space], len(labels))}
    return spaces, len(labels), int(subsets[0].sum()), seed_details(per_seed) | {"k": k}


def probe_scores(
    tested: Labeled,
    labels: Numbers,
    gallery: Labeled,
    truth: Numbers,
    settings: Settings,
    *,
    progress: Progress,
) -> Outcome:
    """Score the linear probe solved by L-BFGS, on each draw of the labels."""
    spaces: dict[str, Scores] = {}
    details: dict[str, Any] = {}
    subsets = [_subset(truth, settings, seed) for seed in range(settings.seeds)]
    for space, queries in tested.vectors.items():
        features = torch.from_numpy(gallery.vectors[space])
        logits = []
        details[space] = []
        for seed, subset in enumerate(subsets):
            progress.begin(f"linear probe on {space}", len(GRID))
            try:
                probe = linear_probe(
                    features[subset],
                    truth[subset],
                    seed=seed,
                    on_progress=lambda done, _: progress.update(done),
                )
            finally:
                progress.end()
            logits.append(probe.logits(queries).numpy())
            details[space].append({"l2": probe.l2, "validation": probe.validation_accuracy})
        spaces[space] = classifier_scores(logits, labels)
    return spaces, len(labels), int(subsets[0].sum()), {"chosen": details}


def classifier_scores(logits: list[Rows], labels: Numbers) -> Scores:
    """Score top-1, and top-5 where there are more than five classes, averaged over seeds."""
    depths = [k for k in (1, TOP) if k < logits[0].shape[1]]
    return {
        f"top{k}": averaged([top_k(rows, labels, k) for rows in logits], len(labels))
        for k in depths
    }


def averaged(shares: list[float], count: int) -> Score:
    """Return the mean over seeds of shares of the same `count` queries, with Wilson's interval."""
    mean = float(np.mean(shares))
    return Score(value=mean, interval=wilson(mean, count))


def seed_details(per_seed: dict[str, list[float]]) -> dict[str, Any]:
    """Return the share of each seed, where there are several."""
    return {"per_seed": per_seed} if max(map(len, per_seed.values())) > 1 else {}


def search_scores(tested: Labeled, gallery: Labeled | None) -> Outcome:
    """Score recall@k, precision@k, R-precision and mAP@R; a query never finds itself."""
    spaces: dict[str, Scores] = {}
    queries = 0
    sides = (tested,) if gallery is None else (tested, gallery)
    labels = numbered(*sides)
    searched = len(labels[-1]) - (gallery is None)
    depths = tuple(depth for depth in DEPTHS if depth <= searched)
    for space, rows in tested.vectors.items():
        against = () if gallery is None else (gallery.vectors[space], labels[1])
        scores = retrieval_scores(rows, labels[0], *against, ks=depths)
        queries = scores.queries
        means = {f"precision@{depth}": value for depth, value in scores.precision.items()}
        means |= {"r_precision": scores.r_precision, "map@r": scores.map_at_r}
        spaces[space] = {
            f"recall@{depth}": Score(value=value, interval=wilson(value, queries))
            for depth, value in scores.recall.items()
        } | {
            name: Score(value=value, interval=around(value, scores.errors[name]))
            for name, value in means.items()
        }
    return spaces, queries, searched, {}


def _subset(truth: Numbers, settings: Settings, seed: int) -> NDArray[np.bool_]:
    """Return which training images have their label used: bool [N]."""
    if settings.label_fraction is None:
        return np.ones(len(truth), bool)
    return balanced_split(truth, settings.label_fraction, seed)
