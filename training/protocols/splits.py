"""Which labeled images a protocol learns from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from training.data.sampling import spread

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Labels = NDArray[np.int64]
    Mask = NDArray[np.bool_]

TEST_SHARE = 5  # one in so many images of a source is tested where no others are given


def query_split(count: int) -> Mask:
    """Bool [count]: a fifth of the images, one drawn from each stretch of five."""
    mask = np.zeros(count, bool)
    mask[spread(count, count // TEST_SHARE)] = True
    return mask


def validation_split(labels: Labels, share: float, seed: int) -> Mask:
    """Bool [N]: that share of each class, rounded; drawn by seed."""
    mask = np.zeros(len(labels), bool)
    for members in _classes(labels, seed):
        mask[members[: round(share * len(members))]] = True
    return mask


def balanced_split(labels: Labels, fraction: float, seed: int) -> Mask:
    """Bool [N]: a fraction of the labels with equally many of each class, at least one.

    A class that has fewer gives all it has (Chen et al. 2020, section 4.2 and appendix B.5).
    """
    mask = np.zeros(len(labels), bool)
    classes = _classes(labels, seed)
    each = max(1, round(fraction * len(labels) / max(1, len(classes))))
    for members in classes:
        mask[members[:each]] = True
    return mask


def _classes(labels: Labels, seed: int) -> list[Labels]:
    """Return the positions of each class, shuffled by seed."""
    random = np.random.default_rng(seed)
    return [random.permutation(np.flatnonzero(labels == kind)) for kind in np.unique(labels)]
