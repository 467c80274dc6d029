"""Indexes of FAISS's factory: saved and loaded, and searched harder as they grow."""

import numpy as np
import pytest

from serving.collection.index.factory import Factory
from tests.serving.collection.clustered import clustered

DIM = 128


def test_a_factory_index_survives_its_bytes() -> None:
    vectors = clustered(600, 1, DIM)
    built = Factory.build("IVF16,RaBitQ", np.arange(5, 605), vectors, threads=1).tuned(3, 2)
    data = built.to_bytes()
    again = Factory.from_bytes(data, built.ids, built.kind, dim=DIM, tuned=(3, 2, 600))
    queries = clustered(10, 2, DIM)
    np.testing.assert_array_equal(built.propose(queries, 5), again.propose(queries, 5))
    assert built.propose(queries, 5).shape == (10, 10)
    with pytest.raises(ValueError, match="599"):
        Factory.from_bytes(data, built.ids[1:], built.kind, dim=DIM, tuned=(3, 2, 600))
    with pytest.raises(ValueError, match="cannot read"):
        Factory.from_bytes(data[:100], built.ids, built.kind, dim=DIM, tuned=(3, 2, 600))


def test_more_items_take_more_proposals() -> None:
    vectors = clustered(900, 1, DIM)
    built = Factory.build("SQ4", np.arange(600), vectors[:600], threads=1).tuned(1, 2)
    grown = built.extended(np.arange(600, 900), vectors[600:], threads=1)
    assert built.propose(vectors[:1], 10).shape == (1, 20)
    assert grown.propose(vectors[:1], 10).shape == (1, 30)
