"""One query out of several examples, some of which the neighbors should be unlike.

The query is Rocchio's (J. J. Rocchio, "Relevance feedback in information retrieval", in: Salton,
"The SMART Retrieval System", 1971), without an original query:

    q = mean of the positives - w * mean of the negatives,   then brought to length one

where every example has length one. Rocchio's own optimum has w = 1; what is unlike one thing may be
anything, so in practice negatives count less (SMART used 0.15 / 0.75 = 0.2), and here w is 0.5
unless the caller says otherwise.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from base.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

NEGATIVE_WEIGHT = 0.5
# Shorter than this a mixture is what rounding left of examples that cancel each other out: float32
# examples are off by some 1e-7, which would turn a query of this length by 1e-4.
LEAST_LENGTH = 1e-3


def mixed_query(
    positive: NDArray[np.float32],
    negative: NDArray[np.float32],
    negative_weight: float = NEGATIVE_WEIGHT,
) -> NDArray[np.float32]:
    """Return the query float32 [E], of length one, of examples of length one.

    Args:
        positive: [P, E], at least one.
        negative: [N, E], may be empty.
        negative_weight: w, not negative.

    Raises:
        UsageError: no positive example, an unusable weight, or examples that cancel out.
    """
    if not len(positive):
        message = "there is no positive example: give at least one image, vector or key"
        raise UsageError(message, param="positive")
    if not (math.isfinite(negative_weight) and negative_weight >= 0):
        message = f"negative_weight is {negative_weight}; a number from 0 on is needed"
        raise UsageError(message, param="negative_weight")
    mixture = positive.mean(axis=0, dtype=np.float64)
    if len(negative):
        mixture -= negative_weight * negative.mean(axis=0, dtype=np.float64)
    length = float(np.linalg.norm(mixture))
    if length < LEAST_LENGTH:
        raise UsageError(
            f"the {len(positive)} positive and {len(negative)} negative examples cancel each other "
            f"out (what is left has length {length:.1e}), so nothing is more similar to them than "
            "the rest: leave an example out, or give the negatives another weight"
        )
    query: NDArray[np.float32] = (mixture / length).astype(np.float32)
    return query
