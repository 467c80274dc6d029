"""How far a search goes: to the k-th neighbor, or to the last that is similar enough."""

import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from base.errors import UsageError

FIRST, GROWTH = 64, 8

T = TypeVar("T")


def check_bounds(k: int | None, min_score: float | None) -> None:
    """Refuse an unlimited search.

    Raises:
        UsageError: naming k or min_score.
    """
    if k is not None and (isinstance(k, bool) or not isinstance(k, int | np.integer)):
        raise UsageError(f"k is {k!r}; a whole number is needed", param="k")
    if min_score is not None and not isinstance(min_score, float | int | np.floating | np.integer):
        raise UsageError(f"min_score is {min_score!r}; a number is needed", param="min_score")
    if k is not None and k < 1:
        raise UsageError(f"k is {k}; at least 1 is needed", param="k")
    if min_score is not None and math.isnan(min_score):
        raise UsageError("min_score is nan; a number from -1 to 1 is needed", param="min_score")
    if k is None and min_score is None:
        message = "k is None, which asks for all that is similar enough: give min_score too"
        raise UsageError(message, param="min_score")


def everything(search: Callable[[int], list[T]]) -> list[T]:
    """Return all hits, by asking for more as long as there may be more.

    Each answer is complete and of one moment, so the last one is.

    Args:
        search: returns the k best, fewer where there are no more.
    """
    k = FIRST
    while len(hits := search(k)) == k:
        k *= GROWTH
    return hits
