"""The protocols that need vectors alone: kNN, the solved linear probe, retrieval."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from export.evaluate.evaluation import Protocol, Score, Scores, Settings
from training.protocols.intervals import around, wilson
from training.protocols.knn import knn_accuracy
from training.protocols.linear import GRID, linear_probe
from training.protocols.retrieval import retrieval_scores
from training.protocols.splits import asking_part, balanced_part
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
    known: Labeled | None,
    settings: Settings,
    progress: Progress,
) -> Outcome:
    """Scores by space, number of queries, size of the gallery, details.

    Raises:
        ValueError: too few images for the protocol.
    """
    if protocol == "retrieval":
        return search_scores(tested, known)
    tested, known = split(tested, known)
    asked, truth = numbered(tested, known)
    if protocol == "knn":
        return knn_scores(tested, asked, known, truth, settings)
    return probe_scores(tested, asked, known, truth, settings, progress=progress)


def split(tested: Labeled, known: Labeled | None) -> tuple[Labeled, Labeled]:
    """Return what is tested and what is learned from: a fifth and the rest where only one is given."""
    if known is not None:
        return tested, known
    asking = asking_part(len(tested.labels))
    return tested.take(asking), tested.take(~asking)


def numbered(*sides: Labeled) -> list[Numbers]:
    """Return the classes' names as numbers, the same in all sides; those of the last one come first.

    So a classifier of the last side has no class that it has never seen.
    """
    names = np.unique(sides[-1].labels)
    others = np.setdiff1d(np.concatenate([side.labels for side in sides]), names)
    order = np.concatenate([names, others])
    index = {str(name): number for number, name in enumerate(order)}
    return [np.array([index[str(x)] for x in side.labels], np.int64) for side in sides]


def knn_scores(
    tested: Labeled, asked: Numbers, known: Labeled, truth: Numbers, settings: Settings
) -> Outcome:
    """Return the weighted vote of the nearest, on each draw of the labels."""
    spaces: dict[str, Scores] = {}
    per_seed: dict[str, list[float]] = {}
    parts = [_part(truth, settings, seed) for seed in range(settings.seeds)]
    for space, queries in tested.vectors.items():
        gallery = known.vectors[space]
        per_seed[space] = [
            knn_accuracy(
                queries,
                asked,
                gallery[part],
                truth[part],
                k=settings.k,
                temperature=settings.temperature,
            )
            for part in parts
        ]
        spaces[space] = {"knn_accuracy": averaged(per_seed[space], len(asked))}
    return spaces, len(asked), int(parts[0].sum()), seeds_told(per_seed)


def probe_scores(
    tested: Labeled,
    asked: Numbers,
    known: Labeled,
    truth: Numbers,
    settings: Settings,
    *,
    progress: Progress,
) -> Outcome:
    """Return the linear probe solved by L-BFGS, on each draw of the labels."""
    spaces: dict[str, Scores] = {}
    details: dict[str, Any] = {}
    parts = [_part(truth, settings, seed) for seed in range(settings.seeds)]
    for space, queries in tested.vectors.items():
        features = torch.from_numpy(known.vectors[space])
        logits = []
        details[space] = []
        for seed, part in enumerate(parts):
            progress.begin(f"linear probe on {space}", len(GRID))
            try:
                probe = linear_probe(
                    features[part],
                    truth[part],
                    seed=seed,
                    on_progress=lambda done, _: progress.update(done),
                )
            finally:
                progress.end()
            logits.append(probe.logits(queries).numpy())
            details[space].append({"l2": probe.l2, "validation": probe.validation_accuracy})
        spaces[space] = classifier_scores(logits, asked)
    return spaces, len(asked), int(parts[0].sum()), {"chosen": details}


def classifier_scores(logits: list[Rows], labels: Numbers) -> Scores:
    """Top-1, and top-5 where there are more than five classes, averaged over seeds."""
    depths = [k for k in (1, TOP) if k < logits[0].shape[1]]
    return {
        f"top{k}": averaged([top_k(found, labels, k) for found in logits], len(labels))
        for k in depths
    }


def averaged(shares: list[float], count: int) -> Score:
    """Return the mean over seeds of shares of the same `count` queries; Wilson's interval of the mean."""
    mean = float(np.mean(shares))
    return Score(value=mean, interval=wilson(mean, count))


def seeds_told(per_seed: dict[str, list[float]]) -> dict[str, Any]:
    """Return the share of each seed, where there are several."""
    return {"per_seed": per_seed} if max(map(len, per_seed.values())) > 1 else {}


def search_scores(tested: Labeled, known: Labeled | None) -> Outcome:
    """Recall@k, precision@k, R-precision and mAP@R; a query never finds itself."""
    spaces: dict[str, Scores] = {}
    queries = 0
    sides = (tested,) if known is None else (tested, known)
    labels = numbered(*sides)
    searched = len(labels[-1]) - (known is None)
    depths = tuple(depth for depth in DEPTHS if depth <= searched)
    for space, rows in tested.vectors.items():
        against = () if known is None else (known.vectors[space], labels[1])
        found = retrieval_scores(rows, labels[0], *against, ks=depths)
        queries = found.queries
        means = {f"precision@{depth}": value for depth, value in found.precision.items()}
        means |= {"r_precision": found.r_precision, "map@r": found.map_at_r}
        spaces[space] = {
            f"recall@{depth}": Score(value=value, interval=wilson(value, queries))
            for depth, value in found.recall.items()
        } | {
            name: Score(value=value, interval=around(value, found.errors[name]))
            for name, value in means.items()
        }
    return spaces, queries, searched, {}


def _part(truth: Numbers, settings: Settings, seed: int) -> NDArray[np.bool_]:
    """Which training images show their label."""
    if settings.label_fraction is None:
        return np.ones(len(truth), bool)
    return balanced_part(truth, settings.label_fraction, seed)
