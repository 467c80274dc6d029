"""Searches with several examples, without a bound on k, and labels by vote, against plain NumPy."""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from base.errors import UsageError
from serving.collection import (
    AnyCollection,
    Hit,
    KeyUnknown,
    LabelShare,
    Record,
    Suggestion,
    create_collection,
)
from serving.collection.contract.locations import Location
from serving.collection.contract.mixing import mixed_query
from serving.collection.contract.search_limits import FIRST
from serving.collection.contract.voting import suggestion_of
from tests.serving.collection.conftest import DIGEST, DIM

Make = Callable[[int], Record]


@pytest.fixture
def filled(location: Location, record: Make) -> Iterator[AnyCollection]:
    """Items 0 to 119; 150 to 199 are unknown."""
    with create_collection(location, DIGEST, DIM) as collection:
        collection.add(map(record, range(120)))
        yield collection


def units(vectors: ArrayLike) -> NDArray[np.float64]:
    rows = np.asarray(vectors, np.float64)
    unit: NDArray[np.float64] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def ranked(
    vectors: NDArray[np.float32], query: NDArray[np.float64], without: Sequence[int] = ()
) -> list[tuple[str, float]]:
    """All of the 120 items by their cosine to a query."""
    scores = units(vectors[:120]) @ (query / np.linalg.norm(query))
    order = [row for row in np.argsort(-scores, kind="stable").tolist() if row not in without]
    return [(f"item-{row:03}", float(scores[row])) for row in order]


def same(hits: list[Hit], expected: list[tuple[str, float]]) -> None:
    assert [hit.key for hit in hits] == [key for key, _ in expected]
    np.testing.assert_allclose([h.score for h in hits], [score for _, score in expected], atol=1e-6)


def test_a_mixture_is_rocchios(filled: AnyCollection, vectors: NDArray[np.float32]) -> None:
    positive, negative = units(vectors[[3, 150, 151]]), units(vectors[[7, 152]])
    query = positive.mean(0) - 0.8 * negative.mean(0)
    hits = filled.search_mixed(
        ["item-003", 9 * vectors[150], vectors[151].tolist()],
        [vectors[152], "item-007"],
        12,
        negative_weight=0.8,
    )
    same(hits, ranked(vectors, query, without=[3, 7])[:12])


def test_one_positive_is_an_ordinary_search(filled: AnyCollection, record: Make) -> None:
    assert filled.search_mixed(["item-004"], k=7) == filled.similar("item-004", 7)
    vector = record(160).vector
    assert filled.search_mixed([vector], k=7) == filled.search([vector], 7)[0]


def test_a_mixture_is_filtered_and_bounded(
    filled: AnyCollection, vectors: NDArray[np.float32]
) -> None:
    query = units(vectors[[1, 2]]).mean(0)
    expected = [one for one in ranked(vectors, query, [1, 2]) if int(one[0][5:]) % 3 == 0]
    expected = [one for one in expected if one[1] >= 0.1]
    options: dict[str, Any] = {"filter": {"label": "label-0"}, "min_score": 0.1}
    same(filled.search_mixed(["item-001", "item-002"], k=None, **options), expected)
    same(filled.search_mixed(["item-001", "item-002"], k=2, **options), expected[:2])
    assert len(filled.search_mixed(["item-001"] * 3, k=119)) == 119, "one item, three times"


@pytest.mark.parametrize(
    ("positive", "negative", "weight", "messages"),
    [
        ([], ["item-001"], 0.5, ["no positive example"]),
        (["item-001"], ["item-001"], 1.0, ["1 positive and 1 negative", "cancel"]),
        ([[1.0] * DIM, [-2.0] * DIM], [], 0.5, ["2 positive and 0 negative", "cancel"]),
        (["item-001"], ["item-002"], -1.0, ["negative_weight is -1"]),
        (["item-001"], ["item-002"], float("nan"), ["negative_weight is nan"]),
        (["item-001", [0.0] * DIM], [], 0.5, ["positive 1", "zero"]),
        (["item-001"], [[1.0, 2.0]], 0.5, ["negative 0", "[2]", f"[{DIM}]"]),
    ],
)  # fmt: skip
def test_unusable_examples_are_named(
    filled: AnyCollection,
    positive: list[Any],
    negative: list[Any],
    weight: float,
    messages: list[str],
) -> None:
    with pytest.raises(UsageError) as refused:
        filled.search_mixed(positive, negative, negative_weight=weight)
    for word in messages:
        assert word in str(refused.value)


def test_an_example_that_is_not_there_is_named(filled: AnyCollection) -> None:
    for examples in ((["nobody"], []), (["item-001"], ["nobody"])):
        with pytest.raises(KeyUnknown, match="nobody"):
            filled.search_mixed(*examples)


def test_a_mixture_has_length_one() -> None:
    rng = np.random.default_rng(5)
    for _ in range(50):
        vectors = units(rng.standard_normal((5, DIM))).astype(np.float32)
        query = mixed_query(vectors[:3], vectors[3:])
        assert query.dtype == np.float32
        assert abs(np.linalg.norm(query.astype(np.float64)) - 1) < 1e-6


# Everything that is similar enough


@pytest.mark.parametrize("floor", [-1.0, -0.2, 0.3, 0.99, 1.0])
def test_everything_as_similar_as_a_score(
    filled: AnyCollection, vectors: NDArray[np.float32], floor: float
) -> None:
    queries = [vectors[150], vectors[3]]
    results = filled.search(queries, None, min_score=floor)
    for query, hits in zip(units(queries), results, strict=True):
        same(hits, [one for one in ranked(vectors, query) if one[1] >= floor - 1e-9])
    assert len(filled.search([vectors[150]], None, min_score=-1)[0]) == 120 > FIRST
    like_me = filled.similar("item-003", None, min_score=-1)
    assert len(like_me) == 119
    assert "item-003" not in {hit.key for hit in like_me}


def test_a_search_needs_an_end(filled: AnyCollection, record: Make) -> None:
    with pytest.raises(UsageError, match=r"k is None.*min_score"):
        filled.search([record(1).vector], None)
    with pytest.raises(UsageError, match="k is 0"):
        filled.similar("item-001", 0)


# Labels


def plain_vote(labels: list[str | None], scores: list[float]) -> dict[str, float]:
    """Shares by the formula of `training.protocols.knn`, written out."""
    votes = [(label, np.exp(score / 0.1)) for label, score in zip(labels, scores, strict=True)
             if label is not None]  # fmt: skip
    total = sum(weight for _, weight in votes)
    return {
        label: sum(weight for other, weight in votes if other == label) / total
        for label, _ in votes
    }


@pytest.mark.parametrize("k", [1, 20, 200])
def test_labels_are_suggested_by_weighted_vote(
    filled: AnyCollection, vectors: NDArray[np.float32], k: int
) -> None:
    filled.add([Record(f"bare-{i}", vectors[120 + i], "/b") for i in range(20)])
    scores = units(vectors[:140]) @ units(vectors[150:155]).T
    for column, one in enumerate(filled.suggest_labels(vectors[150:155], k)):
        nearest = np.argsort(-scores[:, column], kind="stable")[:k].tolist()
        labels = [f"label-{row % 3}" if row < 120 else None for row in nearest]
        expected = plain_vote(labels, scores[nearest, column].tolist())
        assert {share.label for share in one.labels} == set(expected)
        for share in one.labels:
            assert share.share == pytest.approx(expected[share.label], abs=1e-5)
            assert share.neighbours == labels.count(share.label)
        assert one.unlabelled == labels.count(None)
        assert one.labelled + one.unlabelled == min(k, 140)
        assert [s.share for s in one.labels] == sorted((s.share for s in one.labels), reverse=True)


def hit(label: str | None, score: float) -> Hit:
    return Hit("k", score, "/", label, {})


def test_votes_that_are_equal_or_none() -> None:
    assert suggestion_of([]) == Suggestion((), 0, 0)
    assert suggestion_of([hit(None, 0.5)] * 3) == Suggestion((), 0, 3)
    equal = suggestion_of([hit("b", 0.5), hit("a", 0.5), hit("", 0.5), hit("", 0.5)])
    shares = (LabelShare("", 0.5, 2), LabelShare("a", 0.25, 1), LabelShare("b", 0.25, 1))
    assert equal == Suggestion(shares, 4, 0)
    assert json.loads(json.dumps(equal.to_dict()))["labels"][0]["label"] == ""
    (far,) = suggestion_of([hit("x", -1.0)]).labels
    assert far.share == 1
