"""A sample of a long list that looks like the whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def spread(total: int, count: int) -> NDArray[np.int64]:
    """At most `count` of the positions 0..total-1, ascending: one drawn from each equal stretch.

    Images come sorted (by class) or in turns (front, back, front, back): the first ones would all
    be of one kind in the first case, every n-th one in the second. The draw is always the same.
    """
    if count >= total:
        return np.arange(total)
    edges = np.arange(count + 1) * total // max(1, count)
    return np.random.default_rng(0).integers(edges[:-1], edges[1:])
