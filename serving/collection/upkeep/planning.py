"""Which indexes could keep a promise, the fastest first, and how much memory each would take.

The order is that of the median search measured at 100,000 and 200,000 x 128 on one core of Zen 4
(milliseconds at recall@10 >= 0.99, with the scoring of the proposals):

    HNSW16,SQ8 over vectors in memory                          0.11
    HNSW16,SQ8 over vectors in their file                      0.11, once what is searched was read
    IVF,SQ8                                                    0.27
    IVF,PQ with 4 bits for two numbers                         0.25
    IVF,RaBitQ, a bit a number                                 0.30

Of vectors of 256 numbers or more, a graph over 128 principal axes comes first: with 512 numbers it
searches in two thirds of the time of one over all (`projection`).

Vectors in their file (`mapped`) take no memory that the system could not have back: a search
reads those of its proposals. An exact search reads them all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from serving.collection.contract.promise import AUTO
from serving.collection.index.graph import KIND as GRAPH
from serving.collection.index.graph import LINK_BYTES, projected_kind

if TYPE_CHECKING:
    from serving.collection.contract.promise import Promise

EXACT = "Flat"
SMALL = 20_000  # items that are compared one by one in about a millisecond
MOST_LISTS = 65_536
NUMBER = 8  # bytes of an item's number
LONG, AXES = 256, 128  # numbers of a vector from which on only its principal axes are in a graph


@dataclass(frozen=True)
class Candidate:
    """An index that could be built.

    Attributes:
        kind: FAISS's factory string; "Flat": every search is exact.
        in_file: whether the float32 vectors stay in their file.
        nbytes: memory it is expected to hold; None for a factory string of the user's.
    """

    kind: str
    in_file: bool
    nbytes: int | None

    def fits(self, memory: int | None) -> bool:
        """Whether it is expected to keep to a limit."""
        return memory is None or self.nbytes is None or self.nbytes <= memory


def plan(count: int, dim: int, promise: Promise) -> list[Candidate]:
    """Return what to try, in this order, until one keeps the promise; the last is always exact.

    Args:
        count: of items.
        dim: length of a vector.
        promise: if nothing keeps to its memory, the most frugal index is all there is to try.
    """
    vectors = count * (4 * dim + NUMBER)
    exact = [
        Candidate(EXACT, in_file=False, nbytes=vectors),
        Candidate(EXACT, in_file=True, nbytes=count * NUMBER),
    ]
    last = exact[0] if exact[0].fits(promise.memory) else exact[1]
    if promise.exact or is_small(count, promise):
        return [last]
    if promise.index != AUTO:
        return [Candidate(promise.index, in_file=last.in_file, nbytes=None), last]
    candidates: list[Candidate] = []
    frugal: list[tuple[int, Candidate]] = []
    for kind, codes in kinds(count, dim).items():
        rows = 3 * NUMBER * count  # of the vectors, of the nodes, and from these to those
        here = Candidate(kind, in_file=False, nbytes=codes + rows + 4 * dim * count)
        there = Candidate(kind, in_file=True, nbytes=codes + rows)
        candidates += [one for one in (here, there) if one.fits(promise.memory)][:1]
        frugal.append((codes, there))
    return [*(candidates or [min(frugal, key=lambda pair: pair[0])[1]]), last]


def is_small(count: int, promise: Promise) -> bool:
    """Whether so few items are compared one by one, whatever recall is promised."""
    return promise.index == AUTO and count < SMALL


def kinds(count: int, dim: int) -> dict[str, int]:
    """Return factory strings, the fastest first, with the bytes of each without its rows."""
    lists = list_count(count)
    centroids = lists * dim * 4
    padded = max(32 * lists, count + 16 * lists)  # codes for PQ are in blocks of 32
    projected = {projected_kind(AXES): count * (AXES + LINK_BYTES) + 4 * AXES * dim}
    sizes = {
        **(projected if dim >= LONG else {}),
        GRAPH: count * (dim + LINK_BYTES),
        f"IVF{lists},SQ8": count * (dim + NUMBER) + centroids,
        f"IVF{lists},PQ{dim // 2}x4fs": padded * (dim // 4) + count * NUMBER + centroids + 64 * dim,
        f"IVF{lists},RaBitQ": count * (-(-dim // 8) + 8 + NUMBER) + centroids,
    }
    return {kind: size for kind, size in sizes.items() if dim % 2 == 0 or "PQ" not in kind}


def list_count(count: int) -> int:
    """Return the lists of an inverted file: a power of two near 4 sqrt(N), as FAISS recommends."""
    return int(min(2 ** round(math.log2(4 * math.sqrt(max(count, 1)))), MOST_LISTS))
