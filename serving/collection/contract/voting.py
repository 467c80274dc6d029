"""Which label the neighbors of an image suggest, and how much of their vote it has.

A neighbor votes for its label with the weight exp(cosine / 0.1), as in the kNN protocol of Wu et
al. 2018 (section 3.4) that `training.protocols.knn` measures encoders with. A label's share is
the weight of its votes over the weight of all votes. That is all it is: 0.9 does not say that the
label is right nine times in ten. Unlike the protocol, which looks for k labeled images, the
vote is among the k nearest items, labeled or not; those without a label do not vote but are
counted, because a share of few votes means less.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from serving.collection.contract.records import Hit

TEMPERATURE = 0.1
VOTERS = 20


@dataclass(frozen=True, slots=True)
class LabelShare:
    """A label, its share of the weighted votes in (0, 1], and how many neighbors have it."""

    label: str
    share: float
    neighbours: int


@dataclass(frozen=True, slots=True)
class Suggestion:
    """The vote of one query's neighbors.

    Attributes:
        labels: the largest share first, equal ones in the order of their labels; shares sum to 1.
        labelled: neighbors that voted.
        unlabelled: neighbors without a label.
    """

    labels: tuple[LabelShare, ...]
    labelled: int
    unlabelled: int

    def to_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return asdict(self) | {"labels": [asdict(one) for one in self.labels]}


def suggestion_of(hits: Iterable[Hit]) -> Suggestion:
    """Return the vote of a query's neighbors."""
    weights: dict[str, list[float]] = {}
    unlabeled = 0
    for hit in hits:
        if hit.label is None:
            unlabeled += 1
        else:
            # the 1 cancels out and keeps weights from overflowing
            weights.setdefault(hit.label, []).append(float(np.exp((hit.score - 1) / TEMPERATURE)))
    total = sum(map(sum, weights.values()))
    shares = [LabelShare(label, sum(its) / total, len(its)) for label, its in weights.items()]
    shares.sort(key=lambda one: (-one.share, one.label))
    return Suggestion(tuple(shares), sum(one.neighbours for one in shares), unlabeled)
