"""How far a search goes: to the k-th neighbor, or to the last that is similar enough."""

import math
from collections.abc import Callable
from typing import TypeVar

from base.errors import UsageError

FIRST, GROWTH = 64, 8

T = TypeVar("T")


def check_bounds(k: int | None, min_score: float | None) -> None:
    """Refuse a search without an end.

    Raises:
        UsageError: naming k or min_score.
    """
    if k is not None and k < 1:
        raise UsageError(f"k is {k}; at least 1 is needed")
    if min_score is not None and math.isnan(min_score):
        raise UsageError("min_score is nan; a number from -1 to 1 is needed")
    if k is None and min_score is None:
        raise UsageError("k is None, which asks for all that is similar enough: give min_score too")


def everything(ask: Callable[[int], list[T]]) -> list[T]:
    """All that there is to be found, by asking for more as long as there may be more.

    Each answer is of one moment and whole by itself, so the last one is.

    Args:
        ask: the k best, fewer where there are no more.
    """
    k = FIRST
    while len(found := ask(k)) == k:
        k *= GROWTH
    return found
