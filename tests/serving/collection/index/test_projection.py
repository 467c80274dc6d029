"""Principal axes: what they keep of distances."""

import numpy as np
from numpy.typing import NDArray

from serving.collection.index.projection import Projection


def test_distances_never_grow() -> None:
    vectors = np.random.default_rng(0).standard_normal((500, 24)).astype(np.float32)
    projection = Projection.learn(vectors, np.arange(400), 7)
    np.testing.assert_allclose(projection.axes.T @ projection.axes, np.eye(7), atol=1e-5)
    projected = projection(vectors)
    assert projected.shape == (500, 7)
    full = np.linalg.norm(vectors[:250] - vectors[250:], axis=1)
    kept = np.linalg.norm(projected[:250] - projected[250:], axis=1)
    assert (kept <= full + 1e-4).all()


def test_what_lies_in_few_dimensions_keeps_all_its_distances() -> None:
    random = np.random.default_rng(1)
    plane = random.standard_normal((3, 24))
    vectors = (random.standard_normal((300, 3)) @ plane + 5).astype(np.float32)
    projected = Projection.learn(vectors, np.arange(300), 3)(vectors)
    full = np.linalg.norm(vectors[:150] - vectors[150:], axis=1)
    kept = np.linalg.norm(projected[:150] - projected[150:], axis=1)
    np.testing.assert_allclose(kept, full, rtol=1e-3)
    np.testing.assert_allclose(projected.mean(0), 0, atol=1e-3)


def test_vectors_that_differ_along_other_axes_do_not_fit() -> None:
    random = np.random.default_rng(2)
    spans = random.standard_normal((2, 5, 24))

    def along(span: int, count: int) -> NDArray[np.float32]:
        vectors = random.standard_normal((count, 5)) @ spans[span]
        vectors += 0.3 * random.standard_normal((count, 24))
        return np.asarray(vectors, np.float32)

    projection = Projection.learn(along(0, 3000), np.arange(3000), 5)
    assert projection.fits(along(0, 1000))
    assert not projection.fits(along(1, 1000))
    assert not projection.fits(np.concatenate([along(0, 900), along(1, 300)]))
    everywhere = Projection.learn(along(0, 300), np.arange(300), 24)
    assert everywhere.fits(along(1, 100))
