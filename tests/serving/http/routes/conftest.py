"""Images and the oracle of neighbors, for each module of routes."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

Encode = Callable[[bytes], NDArray[np.float32]]


@pytest.fixture(scope="module")
def four(images: dict[str, bytes]) -> list[bytes]:
    return list(images.values())[::11]


@pytest.fixture(scope="module")
def oracle(images: dict[str, bytes], encode: Encode) -> Callable[[bytes], list[tuple[str, float]]]:
    """All keys with their cosine to an image, the most similar first, by plain NumPy."""
    keys = list(images)
    matrix = np.stack([encode(content) for content in images.values()])

    def rank(content: bytes) -> list[tuple[str, float]]:
        scores = matrix @ encode(content)
        return [(keys[row], float(scores[row])) for row in np.argsort(-scores, kind="stable")]

    return rank
