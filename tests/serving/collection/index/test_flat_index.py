"""The index against brute force: order, ties, removals, masks, snapshots."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from serving.collection.index.flat_index import FlatIndex


def unit(matrix: NDArray[np.float64]) -> NDArray[np.float32]:
    """Rows of length one, float32."""
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    return np.asarray(matrix / lengths, np.float32)


def random_vectors(count: int, dim: int, seed: int = 0) -> NDArray[np.float32]:
    return unit(np.random.default_rng(seed).standard_normal((count, dim)))


def filled(vectors: NDArray[np.float32], block: int = 7) -> FlatIndex:
    """An index of these vectors under the numbers 10, 20, 30, …, added in blocks."""
    index = FlatIndex.empty(vectors.shape[1])
    for start in range(0, len(vectors), block):
        ids = 10 * np.arange(start, min(start + block, len(vectors))) + 10
        index = index.added(ids, vectors[start : start + block], sequence=start)
    return index


def brute_force(
    query: NDArray[np.float32], vectors: NDArray[np.float32], k: int, keep: NDArray[np.bool_]
) -> list[tuple[float, int]]:
    """Score and number of the k best, and of all that tie with the last of them."""
    scores = (vectors.astype(np.float64) * query.astype(np.float64)).sum(axis=1).round(7)
    pairs = sorted((-score, 10 * row + 10) for row, score in enumerate(scores) if keep[row])
    if len(pairs) > k:
        pairs = [pair for pair in pairs if pair[0] <= pairs[k - 1][0]]
    return [(min(1.0, -score), number) for score, number in pairs]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), dim=st.sampled_from([2, 3, 16]), count=st.integers(1, 150))
def test_search_is_exact_with_ties_removals_and_masks(
    data: st.DataObject, dim: int, count: int
) -> None:
    # Few different small vectors, so that most scores tie.
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    raw = rng.integers(-1, 2, (count, dim)).astype(np.float64)
    raw[~raw.any(axis=1), 0] = 1
    vectors = unit(raw)
    gone = rng.random(count) < data.draw(st.sampled_from([0.0, 0.2, 0.9, 1.0]))
    allowed = rng.random(count) < data.draw(st.sampled_from([0.05, 0.5, 1.0]))
    numbers = 10 * np.arange(count) + 10
    index = filled(vectors).removed(numbers[gone], sequence=count)
    k = data.draw(st.integers(1, count + 5))
    queries = vectors[rng.integers(0, count, 3)]
    for mask, expected in (
        (~gone, index.search(queries, k)),
        (~gone & allowed, index.search(queries, k, numbers[allowed])),
    ):
        for query, (ids, scores) in zip(queries, expected, strict=True):
            pairs = list(zip(scores.tolist(), ids.tolist(), strict=True))
            assert sorted(pairs, key=lambda pair: (-pair[0], pair[1])) == brute_force(
                query, vectors, k, mask
            )
            assert scores.tolist() == sorted(scores.tolist(), reverse=True)


def test_a_query_gets_the_same_answer_alone_and_in_a_batch() -> None:
    """FAISS computes from 20 queries on with another routine, whose last digits differ."""
    vectors = random_vectors(3000, 96)
    index = filled(vectors, 1000)
    together = index.search(vectors[:64], 5)
    for number in range(64):
        ids, scores = index.search(vectors[number : number + 1], 5)[0]
        assert ids.tolist() == together[number][0].tolist()
        assert scores.tolist() == together[number][1].tolist()


def test_the_same_vector_gets_the_same_score_wherever_it_lies() -> None:
    vectors = random_vectors(500, 33)
    vectors[::7] = vectors[0]
    query = random_vectors(1, 33, seed=5)
    ids, scores = filled(vectors).search(query, 500)[0]
    same = scores[np.isin(ids, 10 * np.arange(0, 500, 7) + 10)]
    assert len(set(same.tolist())) == 1


def test_an_older_index_does_not_see_what_came_later() -> None:
    vectors = random_vectors(40, 4)
    old = filled(vectors[:20])
    new = old.added(np.arange(1000, 1020), vectors[20:], sequence=99)
    newest = new.removed(new.ids[:5], sequence=100)
    assert (len(old), len(new), len(newest)) == (20, 40, 35)
    assert old.search(vectors[:1], 1)[0][0].tolist() == [10]
    assert new.search(vectors[20:21], 1)[0][0].tolist() == [1000]
    assert 10 not in newest.search(vectors[:1], 40)[0][0]


def test_two_indexes_made_from_one_do_not_disturb_each_other() -> None:
    vectors = random_vectors(30, 4)
    base = filled(vectors[:10])
    left = base.added(np.arange(500, 510), vectors[10:20], sequence=1)
    right = base.added(np.arange(600, 610), vectors[20:30], sequence=1)
    assert left.search(vectors[10:11], 1)[0][0].tolist() == [500]
    assert right.search(vectors[20:21], 1)[0][0].tolist() == [600]


def test_removing_what_is_not_there_changes_nothing() -> None:
    index = filled(random_vectors(10, 4)).removed(np.array([5, 11, 10_000]), sequence=1)
    assert len(index) == 10
    assert index.live is None


def test_an_index_of_nothing_takes_no_memory() -> None:
    nothing = FlatIndex.of(np.empty(0, np.int64), np.empty((0, 4), np.float32), sequence=0)
    assert (len(nothing), nothing.nbytes) == (0, 0)


def test_memory_of_removed_vectors_is_given_back() -> None:
    index = filled(random_vectors(5000, 16))
    before = index.nbytes
    left = index.removed(index.ids[100:], sequence=1)
    assert len(left) == 100
    assert left.nbytes < before / 20
    assert left.ids.tolist() == index.ids[:100].tolist()


@pytest.mark.parametrize("count", [0, 3])
def test_an_empty_index_finds_nothing(count: int) -> None:
    vectors = random_vectors(3, 4)
    index = filled(vectors[:count]).removed(np.array([10, 20, 30]), sequence=1)
    assert [len(ids) for ids, _ in index.search(vectors, 5)] == [0, 0, 0]
    assert index.search(vectors[:0], 5) == []
