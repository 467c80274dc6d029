"""How much effort a proposer needs to keep a target recall.

Recall@10 is measured on items that were held out of it: queries it has not seen, from the
distribution it is for. A neighbor is a hit if its cosine is that of the true tenth or better, so
equal images cannot be mistaken for each other's misses. The cheapest effort is used whose recall
is at least the target with 97.5 % confidence (the lower end of a 95 % interval).

To try many efforts and use the first that passes would favor luck. So a fifth of the queries
(the pilot) says where to begin, and only the others, which had no say in that, prove the recall.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

import numpy as np

from serving.collection.contract.scores import MARGIN
from serving.collection.index.proposer import SPARE, TUNED_NEIGHBORS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from serving.collection.contract.scores import Ids, Vectors
    from serving.collection.index.flat_index import FlatIndex
    from serving.collection.index.index import Index
    from serving.collection.index.proposer import Proposer

FEWEST_QUERIES = 1000
PILOT = 1 / 5  # of the queries
MOST_SECONDS = 2.0  # that searches are timed
Z = 1.96  # 95 %, both ends


@dataclass(frozen=True, kw_only=True)
class Recall:
    """The recall measured on held-out queries."""

    target: float
    effort: int  # efSearch, nprobe
    spread: int  # proposals for each that is requested
    recall: float  # @10
    low: float  # ends of the 95 % confidence interval
    high: float
    queries: int

    @property
    def kept(self) -> bool:
        """Whether the target is reached with 97.5 % confidence."""
        return self.low >= self.target

    def to_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return {name: value for name, value in asdict(self).items() if name != "target"}

    def __str__(self) -> str:
        return (
            f"recall@10 {self.recall:.4f} ({self.low:.4f} to {self.high:.4f} with 95 % confidence, "
            f"{self.queries} queries)"
        )


def queries_needed(target: float) -> int:
    """Return how many queries can prove such a recall: with fewer, even 100 % would not."""
    proving = max(FEWEST_QUERIES, math.ceil(1.25 * Z * Z * target / (1 - target)))
    return math.ceil(proving / (1 - PILOT))


def can_prove(target: float, queries: int) -> bool:
    """Whether so many queries could prove such a recall if none misses anything."""
    proving = queries - max(1, int(PILOT * queries))
    return proving > 0 and interval([1.0] * proving)[0] >= target


def tune(proposer: Proposer, flat: FlatIndex, held_out: Ids, target: float) -> Recall:
    """Return the cheapest effort that keeps the target recall, or the best that was measured.

    Args:
        proposer: of items of `flat`, none of which are held out.
        flat: the exact index.
        held_out: numbers of the items that are the queries, at least 2.
        target: recall@10, below 1.
    """
    held_out = np.random.default_rng(1).permutation(held_out)
    queries = flat.vectors[flat.rows_of(held_out)]
    floors = _floors(flat, proposer, queries)
    pilot = max(1, int(PILOT * len(queries)))
    begin = _RecallTest(flat, queries[:pilot], floors[:pilot], target)
    prove = _RecallTest(flat, queries[pilot:], floors[pilot:], target)
    waiting: list[tuple[float, int, int]] = []
    best: Recall | None = None
    efforts = [e for e in proposer.efforts if _cost(proposer, e, 1) < len(flat)]
    efforts = efforts or list(proposer.efforts[:1])  # the others cost more than comparing all
    for effort, later in zip(efforts, [*efforts[1:], None], strict=True):
        widest = proposer.spreads[-1]
        shares = begin.shares(proposer.tuned(effort, widest))
        for spread, share in zip(proposer.spreads, shares, strict=True):
            if share.mean() >= target or (later is None and best is None and spread == widest):
                heappush(waiting, (_cost(proposer, effort, spread), effort, spread))
        while waiting and (later is None or waiting[0][0] <= _cost(proposer, later, 1)):
            measured = prove.measure(proposer, *heappop(waiting)[1:])
            if best is None or measured.low > best.low:
                best = measured
            if measured.kept:
                return measured
    assert best is not None
    return best


def _cost(proposer: Proposer, effort: int, spread: int) -> float:
    return proposer.tuned(effort, spread).cost(TUNED_NEIGHBORS + SPARE)


@dataclass(frozen=True)
class _RecallTest:
    """Queries float32 [Q, E], the cosines of their tenth neighbors, and the target recall."""

    flat: FlatIndex
    queries: Vectors
    floors: list[float]
    target: float

    def shares(self, proposer: Proposer) -> NDArray[np.float64]:
        """Return the share of the ten nearest among each query's proposals: [spreads, Q].

        The proposals of a smaller spread are the first of those of the proposer's own.
        """
        spreads = [spread for spread in proposer.spreads if spread <= proposer.spread]
        shares = np.empty((len(spreads), len(self.queries)))
        for q, (query, floor) in enumerate(zip(self.queries, self.floors, strict=True)):
            nodes = proposer.propose(query[None], TUNED_NEIGHBORS + SPARE)[0]
            rows = self.flat.rows_of(proposer.ids[nodes[nodes >= 0]])
            hits = np.cumsum(self.flat.exact_scores(query, rows) >= floor)
            for s, spread in enumerate(spreads):
                last = min(len(hits), len(nodes) * spread // proposer.spread)
                count = int(hits[last - 1]) if last else 0
                shares[s, q] = min(count, TUNED_NEIGHBORS) / TUNED_NEIGHBORS
        return shares

    def measure(self, proposer: Proposer, effort: int, spread: int) -> Recall:
        """Return the recall of an effort, with its interval."""
        shares = self.shares(proposer.tuned(effort, spread))[-1]
        low, high = interval(shares)
        return Recall(
            target=self.target,
            effort=effort,
            spread=spread,
            recall=float(shares.mean()),
            low=low,
            high=high,
            queries=len(shares),
        )


def _floors(flat: FlatIndex, proposer: Proposer, queries: Vectors) -> list[float]:
    """Return the cosine of each query's tenth neighbor among the items that the proposer has."""
    proposable = np.zeros(flat.count, np.bool_)
    proposable[flat.rows_of(proposer.ids)] = True
    floors = []
    for q, (ids, scores) in enumerate(flat.search(queries, TUNED_NEIGHBORS + MARGIN)):
        inside = scores[proposable[flat.rows_of(ids)]]
        if len(inside) < TUNED_NEIGHBORS:  # nearly all that is near is outside
            rows = np.flatnonzero(proposable if flat.live is None else proposable & flat.live)
            inside = flat.nearest(queries[q : q + 1], TUNED_NEIGHBORS, rows)[0][1]
        floors.append(float(inside[:TUNED_NEIGHBORS][-1]) if len(inside) else -1.0)
    return floors


def latency(index: Index, queries: Vectors) -> tuple[float, float]:
    """Return median and 99th percentile, in milliseconds, of a search for one query on one core.

    In the index alone: without the ledger, which looks the hits up.
    """
    seconds: list[float] = []
    for query in queries:
        if sum(seconds) > MOST_SECONDS:
            break
        start = time.perf_counter()
        index.search(query[None], TUNED_NEIGHBORS)
        seconds.append(time.perf_counter() - start)
    if not seconds:
        return 0.0, 0.0
    return 1000 * float(np.median(seconds)), 1000 * float(np.quantile(seconds, 0.99))


def interval(shares: Sequence[float] | NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % interval of the mean of shares in [0, 1], one a query (Wilson 1927).

    Wilson's interval is for yes-or-no answers. A share of ten answers spreads less, as much as
    more queries with yes-or-no answers would: at most ten times as many, and no more than there
    are where nothing was missed, because then the spread is not known.
    """
    mean, spread = float(np.mean(shares)), float(np.var(shares))
    count = float(len(shares))
    if spread > 0:
        count *= min(max(mean * (1 - mean) / spread, 1.0), TUNED_NEIGHBORS)
    z = Z * Z / count
    center = (mean + z / 2) / (1 + z)
    half = Z / (1 + z) * math.sqrt(mean * (1 - mean) / count + z / (4 * count))
    low, high = max(0.0, center - half), min(1.0, center + half)
    return min(low, mean), max(high, mean)  # rounding must not leave the mean outside
