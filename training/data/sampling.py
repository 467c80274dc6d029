"""A sample of a long list that looks like the whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_HELD_OUT = 1000  # images


def spread(total: int, count: int) -> NDArray[np.int64]:
    """At most `count` of the positions 0..total-1, ascending: one drawn from each equal stretch.

    Images come sorted (by class) or in turns (front, back, front, back): the first ones would all
    be of one kind in the first case, every n-th one in the second. The draw is always the same.
    """
    if count >= total:
        return np.arange(total)
    edges = np.arange(count + 1) * total // max(1, count)
    return np.random.default_rng(0).integers(edges[:-1], edges[1:])


def hold_out(labels: NDArray[np.int64], share: float, batch_size: int) -> NDArray[np.int64]:
    """Return positions of images to measure on and not to train on, ascending.

    Args:
        labels: of all images [N], negative where there is none. Where there are two labels or
            more, only labeled images are held out.
        share: of those that come into question; at most `MOST_HELD_OUT` images.
        batch_size: so many images are left to train on at least.
    """
    labeled = np.flatnonzero(labels >= 0)
    several = len(np.unique(labels[labeled])) > 1
    pool = labeled if several else np.arange(len(labels))
    count = min(MOST_HELD_OUT, int(share * len(pool)), len(labels) - batch_size)
    return pool[spread(len(pool), max(0, count))]
