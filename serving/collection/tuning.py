"""How much effort a graph needs to keep the recall that was asked for.

Recall@10 is measured on items that were held out of the graph: queries it has not seen, from the
distribution it is for. A neighbour counts as found if its cosine is that of the true tenth or
better, so equal pictures cannot be mistaken for each other's misses. The least effort is taken
whose recall is at least the one asked with 97.5 % confidence (the lower end of a 95 % interval).
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from serving.collection.index import MARGIN
from serving.collection.mixed import SPARE, TUNED_NEIGHBOURS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from serving.collection.graph import Graph
    from serving.collection.index import FlatIndex, Ids, Vectors

EFFORTS = tuple(round(26 * 1.125**step) for step in range(32))  # 26 to 1001
FEWEST_QUERIES = 1000
Z = 1.96  # 95 %, both ends


@dataclass(frozen=True, kw_only=True)
class Recall:
    """What was measured on held-out queries."""

    asked: float
    effort: int  # efSearch
    recall: float  # @10
    low: float  # ends of the 95 % confidence interval
    high: float
    queries: int
    median_ms: float  # of one query on one core, in the index alone

    @property
    def kept(self) -> bool:
        """Whether the promise holds."""
        return self.low >= self.asked

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def queries_needed(asked: float) -> int:
    """How many queries can prove such a recall: with fewer, even 100 % found would not."""
    return max(FEWEST_QUERIES, math.ceil(1.25 * Z * Z * asked / (1 - asked)))


def tune(graph: Graph, flat: FlatIndex, held_out: Ids, asked: float) -> Recall:
    """The least effort that keeps the recall asked for, or the most there is.

    Args:
        graph: of all items of ``flat`` but those held out.
        flat: the exact index.
        held_out: numbers of the items that are the queries.
        asked: recall@10, below 1.
    """
    queries = flat.vectors[flat.rows_of(held_out)]
    floors = _floors(flat, queries, held_out)
    for effort in EFFORTS:
        found, seconds = [], []
        for query, floor in zip(queries, floors, strict=True):
            start = time.perf_counter()
            nodes = graph.propose(query[None], TUNED_NEIGHBOURS + SPARE, effort=effort)[0]
            seconds.append(time.perf_counter() - start)
            found.append(_found(flat, query, graph.ids[nodes[nodes >= 0]], floor))
        recall = float(np.mean(found))
        low, high = interval(found)
        measured = Recall(
            asked=asked,
            effort=effort,
            recall=recall,
            low=low,
            high=high,
            queries=len(queries),
            median_ms=1000 * float(np.median(seconds)),
        )
        if measured.kept:
            break
    return measured


def _floors(flat: FlatIndex, queries: Vectors, held_out: Ids) -> list[float]:
    """The cosine of each query's tenth neighbour among the items of the graph."""
    floors = []
    for ids, scores in flat.search(queries, TUNED_NEIGHBOURS + MARGIN):
        known = scores[~np.isin(ids, held_out)]
        floors.append(float(known[:TUNED_NEIGHBOURS][-1]) if len(known) else -1.0)
    return floors


def _found(flat: FlatIndex, query: Vectors, ids: Ids, floor: float) -> float:
    """Share of the ten nearest that are proposed."""
    rows = flat.rows_of(ids)
    hits = int(np.count_nonzero(flat.exact_scores(query, rows) >= floor))
    return min(hits, TUNED_NEIGHBOURS) / TUNED_NEIGHBOURS


def interval(shares: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the mean of shares in [0, 1], one a query (Wilson 1927).

    Wilson's interval is for yes-or-no answers. A share of ten answers spreads less, as much as
    more queries with yes-or-no answers would: at most ten times as many, and no more than there
    are where nothing was missed, because then the spread is not known.
    """
    mean, spread = float(np.mean(shares)), float(np.var(shares))
    count = float(len(shares))
    if spread > 0:
        count *= min(max(mean * (1 - mean) / spread, 1.0), TUNED_NEIGHBOURS)
    z = Z * Z / count
    centre = (mean + z / 2) / (1 + z)
    half = Z / (1 + z) * math.sqrt(mean * (1 - mean) / count + z / (4 * count))
    return min(max(0.0, centre - half), mean), max(
        min(1.0, centre + half), mean
    )  # but for rounding
