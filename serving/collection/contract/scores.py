"""The arrays of a search and how exact its scores are, in a folder as in Milvus.

Sums in float32 depend on a vector's position and on how many queries come at once, by about 1e-7.
So what FAISS or Milvus ranks is only a proposal: more than k are fetched, scored again in float64
and rounded, and more are fetched while one that was left out could tie with the k-th.
"""

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Vectors = NDArray[np.float32]
Scores = NDArray[np.float64]
Mask = NDArray[np.bool_]

MARGIN = 32  # fetched beyond k, so that near ties at the end rarely need a second search
# Larger than any difference between a float32 sum and the float64 one for unit vectors.
ROUNDING = 1e-5
SCORE_DIGITS = 7  # float32 vectors hold no more
