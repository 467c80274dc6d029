"""What the search asks of an approximate index, whatever kind it is.

It only proposes: its caller scores the proposals with the float32 vectors (`index`). It never
changes, so that searches need no lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from serving.collection.contract.scores import Ids, Vectors

SPARE = 16  # proposals beyond k: their order is that of rounded vectors
TUNED_NEIGHBORS = 10  # recall@10
ADDED_AT_ONCE = 10_000
GRAPH_EFFORTS = tuple(round(26 * 1.125**step) for step in range(32))  # efSearch, 26 to 1001
# In vectors compared one by one. A step of a graph was measured on Zen 3 with 128 and 512 numbers,
# 200,000 to 1,000,000 vectors: 20 to 40; a proposal on one core of Zen 4 with 128 numbers.
STEP_COST = 30  # a step of a graph
SCORE_COST = 8  # a proposal, which is read from anywhere and scored in float64


class Proposer(Protocol):
    """Items that can be searched approximately."""

    @property
    def ids(self) -> Ids:
        """int64 [n], the items' numbers in the order of its nodes."""
        ...

    @property
    def kind(self) -> str:
        """FAISS's factory string for it."""
        ...

    @property
    def effort(self) -> int:
        """What it does for a search for 10 neighbors: its efSearch or nprobe."""
        ...

    @property
    def spread(self) -> int:
        """How many proposals it makes for each that is requested."""
        ...

    @property
    def efforts(self) -> Sequence[int]:
        """The efforts it can be searched with, ascending."""
        ...

    @property
    def spreads(self) -> Sequence[int]:
        """The spreads it can be searched with, ascending.

        The proposals of a smaller one are the first of a larger one's.
        """
        ...

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        ...

    @property
    def last(self) -> int:
        """The highest number in it; 0 if it is empty."""
        ...

    def __len__(self) -> int: ...

    def cost(self, count: int) -> float:
        """Return how many vectors could be compared one by one while it proposes so many."""
        ...

    def propose(self, queries: Vectors, count: int) -> Ids:
        """Return nodes of items that are probably the nearest, removed ones among them.

        Args:
            queries: float32 [Q, E], of length one.
            count: how many for each query, times the spread; more of them take more effort.

        Returns:
            int64 [Q, count * spread], the best first; -1 where there are no more.
        """
        ...

    def fits(self, vectors: Vectors) -> bool:
        """Whether these vectors, float32 [N, E], could be found in it like its own."""
        ...

    def tuned(self, effort: int, spread: int) -> Self:
        """Return the same items, searched with another effort."""
        ...

    def extended(self, ids: Ids, vectors: Vectors, *, threads: int) -> Self:
        """Return a copy with more items, none of which it has already."""
        ...

    def to_bytes(self) -> NDArray[Any]:
        """FAISS's serialization, uint8; the ids are not in it."""
        ...
