"""What a collection promises of its searches, and the limits it keeps to.

The user says what is to hold, not how: a recall, and if need be how much memory the index may take
and how long a search may last. `upkeep.planning` lists the indexes that could do it.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from base.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

AUTO, FLAT = "auto", "flat"
DEFAULT_RECALL = 0.99
HIGHEST_RECALL = 0.9999  # more than that cannot be proved with a bearable number of queries
NO_LIMIT = "none"
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
BINARY_UNITS = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
MILLISECONDS = {"": 1.0, "ms": 1.0, "us": 1e-3, "s": 1e3}


@dataclass(frozen=True, kw_only=True)
class Promise:
    """The promise that every search keeps.

    Attributes:
        recall: recall@10 of searches; 1: always exact.
        memory: the most bytes the index may hold, None: as many as it needs.
        latency: milliseconds that half of the searches must not exceed; None: no matter.
        index: "auto": whatever keeps the promise; "flat": always exact; else a FAISS factory
            string.
    """

    recall: float = DEFAULT_RECALL
    memory: int | None = None
    latency: float | None = None
    index: str = AUTO

    @property
    def exact(self) -> bool:
        """Whether every search compares every vector."""
        return self.recall == 1 or self.index == FLAT

    def check(self, dim: int) -> None:
        """Refuse what cannot be promised for vectors of this length.

        Raises:
            UsageError: naming the value and what would do.
        """
        if not (0 < self.recall <= HIGHEST_RECALL or self.recall == 1):
            raise UsageError(
                f"recall is {self.recall}: a number above 0 and up to {HIGHEST_RECALL} is needed, "
                "or 1 for exact searches only"
            )
        if self.memory is not None and self.memory < 1:
            raise UsageError(f"memory is {self.memory} bytes; write 500MB or 2GiB, or none")
        if self.latency is not None and not 0 < self.latency < float("inf"):
            raise UsageError(f"latency is {self.latency} ms; write 2ms or 0.5ms, or none")
        if self.index not in (AUTO, FLAT):
            from serving.collection.contract.factory_strings import check_factory

            check_factory(self.index, dim)

    def changed(self, changes: Mapping[str, Any]) -> Promise:
        """Return the promise with other values for some of its attributes."""
        return Promise(**(asdict(self) | dict(changes)))

    def to_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return asdict(self)


def parse_memory(text: str) -> int | None:
    """Return the bytes of "2GiB", "500MB" or "1000000"; None for "none".

    Raises:
        UsageError: it is written otherwise.
    """
    amount = _parse(text, "([kmgt]i?)?b?", UNITS | BINARY_UNITS, "memory", "500MB or 2GiB")
    return None if amount is None else int(amount)


def parse_latency(text: str) -> float | None:
    """Return the milliseconds of "2ms", "0.5" or "1s"; None for "none".

    Raises:
        UsageError: it is written otherwise.
    """
    return _parse(text, "(ms|us|s)?", MILLISECONDS, "latency", "2ms or 0.5ms")


def _parse(
    text: str, unit: str, factors: Mapping[str, float], name: str, examples: str
) -> float | None:
    """Return a number times the factor of its unit, a pattern with one group; None for "none"."""
    if text.strip().lower() == NO_LIMIT:
        return None
    match = re.fullmatch(rf"\s*(\d+(?:\.\d+)?)\s*{unit}\s*", text.lower())
    if not match:
        raise UsageError(f"{name} is {text!r}; write {examples}, or none for no limit")
    return float(match[1]) * factors[match[2] or ""]
