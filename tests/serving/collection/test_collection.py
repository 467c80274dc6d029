"""A collection from outside: what is added is found, what is wrong is refused with the remedy.

All of it holds in a folder and in Milvus.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from base.errors import UsageError
from serving.collection import (
    AddReport,
    AnyCollection,
    KeyExists,
    KeyUnknown,
    Record,
    create_collection,
    describe,
)
from serving.collection.contract.locations import Location

DIGEST, DIM = "ab" * 32, 8
Make = Callable[[int], Record]


@pytest.fixture
def collection(location: Location) -> Iterator[AnyCollection]:
    """An empty collection, in a folder and in Milvus."""
    with create_collection(location, DIGEST, DIM) as made:
        yield made


def counts(report: AddReport) -> tuple[int, int, int]:
    return report.added, report.replaced, report.unchanged


def test_an_item_comes_back_as_it_was_added(collection: AnyCollection, record: Make) -> None:
    assert counts(collection.add([record(7)])) == (1, 0, 0)
    item, original = collection.get("item-007"), record(7)
    assert item is not None
    vector = np.asarray(original.vector, np.float64)
    np.testing.assert_allclose(np.asarray(item.vector), vector / np.linalg.norm(vector), atol=1e-7)
    for name in ("key", "uri", "label", "width", "height", "sha256", "metadata"):
        assert getattr(item, name) == getattr(original, name)
    assert collection.get("item-008") is None
    assert "item-007" in collection
    assert "item-008" not in collection


def test_search_finds_the_nearest_best_first(
    collection: AnyCollection, record: Make, vectors: NDArray[np.float32]
) -> None:
    collection.add(map(record, range(100)))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for query, hits in zip(vectors[:30], collection.search(vectors[:30], 5), strict=True):
        cosines = unit[:100] @ (query / np.linalg.norm(query))
        best = np.argsort(-cosines)[:5]
        assert [hit.key for hit in hits] == [f"item-{row:03}" for row in best]
        np.testing.assert_allclose([hit.score for hit in hits], cosines[best], atol=1e-6)
        assert hits[0].metadata == record(int(best[0])).metadata


def test_k_counts_after_filter_and_min_score(
    collection: AnyCollection, record: Make, vectors: NDArray[np.float32]
) -> None:
    collection.add(map(record, range(100)))
    everything = collection.search(vectors[:1], 100)[0]
    expected = [hit for hit in everything if hit.label == "label-1" and hit.metadata["even"]]
    condition = {"label": "label-1", "even": True}
    assert collection.search(vectors[:1], 4, filter=condition)[0] == expected[:4]
    floor = expected[6].score
    assert collection.search(vectors[:1], 50, filter=condition, min_score=floor)[0] == expected[:7]


def test_equal_scores_come_in_the_order_of_their_keys(collection: AnyCollection) -> None:
    keys = [f"{number % 10}{number // 10:02}" for number in range(300)]
    collection.add(Record(key, [1.0] * DIM, "") for key in keys)
    collection.add([Record("best", [1.0] * (DIM - 1) + [1.1], "")])
    hits = collection.search([[1.0] * (DIM - 1) + [1.1]], 40)[0]
    assert [hit.key for hit in hits] == ["best", *sorted(keys)[:39]]


def test_scores_stay_within_cosine_bounds(collection: AnyCollection) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((50, DIM)).astype(np.float32)
    collection.add(Record(str(i), vector, "") for i, vector in enumerate(vectors))
    for sign in (1, -1):
        for hits in collection.search(sign * vectors, 50):
            assert all(-1 <= hit.score <= 1 for hit in hits)


def test_similar_leaves_the_item_itself_out(collection: AnyCollection, record: Make) -> None:
    collection.add(map(record, range(30)))
    collection.add([Record("twin", record(3).vector, "")])
    hits = collection.similar("item-003", 5)
    assert hits[0].key == "twin"
    assert len(hits) == 5
    assert "item-003" not in {hit.key for hit in hits}
    with pytest.raises(KeyUnknown) as unknown:
        collection.similar("nobody", 5)
    assert unknown.value.key == "nobody"


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ([[1.0] * DIM, [0.0] * DIM], "query 1.*zero"),
        ([[1.0] * 3], r"query 0.*\[3\].*\[8\]"),
        ([[float("nan")] * DIM], "query 0.*nan"),
    ],
)
def test_unusable_queries_are_refused(
    collection: AnyCollection, vectors: list[list[float]], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        collection.search(vectors, 3)
    with pytest.raises(UsageError, match="k is 0"):
        collection.search([[1.0] * DIM], 0)
    with pytest.raises(UsageError, match="min_score is nan"):
        collection.search([[1.0] * DIM], 1, min_score=float("nan"))


def test_no_queries_no_answers(collection: AnyCollection) -> None:
    assert collection.search([], 3) == []
    assert collection.search(np.empty((0, DIM), np.float32), 3) == []


def test_a_refused_batch_leaves_nothing_behind(collection: AnyCollection, record: Make) -> None:
    collection.add([record(1), record(2)])
    for bad, error in (
        ([record(5), record(2), record(1)], KeyExists),
        ([record(5), record(6), record(5)], KeyExists),
        ([record(5), Record("zero", [0.0] * DIM, "")], UsageError),
    ):
        with pytest.raises(error):
            collection.add(bad)
    assert collection.keys() == ["item-001", "item-002"]
    assert len(collection) == 2
    with pytest.raises(KeyExists) as exists:
        collection.add([record(5), record(2), record(1)])
    assert exists.value.keys == ("item-002", "item-001")
    assert "replace" in str(exists.value)


def test_replacing_exchanges_the_vector_and_counts(collection: AnyCollection, record: Make) -> None:
    collection.add(map(record, range(10)))
    changed = Record("item-003", record(50).vector, "/new.jpg")
    report = collection.add([record(2), changed, record(60)], on_duplicate="replace")
    assert counts(report) == (1, 1, 1)
    assert len(collection) == 11
    hit = collection.search([record(50).vector], 1)[0][0]
    assert (hit.key, hit.uri, hit.label) == ("item-003", "/new.jpg", None)
    assert len(collection.search([record(3).vector], 100)[0]) == 11


def test_replacing_twice_in_a_batch_keeps_the_last(collection: AnyCollection, record: Make) -> None:
    first, last = Record("x", record(1).vector, "/1"), Record("x", record(2).vector, "/2")
    assert collection.add([first, last], on_duplicate="replace").added == 1
    item = collection.get("x")
    assert item is not None
    assert item.uri == "/2"


def test_an_item_read_and_added_again_is_unchanged(collection: AnyCollection, record: Make) -> None:
    collection.add(map(record, range(20)))
    report = collection.add(collection.items(), on_duplicate="replace")
    assert counts(report) == (0, 0, 20)


def test_unknown_ways_to_treat_duplicates_are_refused(collection: AnyCollection) -> None:
    with pytest.raises(UsageError, match="upsert"):
        collection.add([], on_duplicate="upsert")  # type: ignore[arg-type]


def test_removed_items_are_not_found(collection: AnyCollection, record: Make) -> None:
    collection.add(map(record, range(20)))
    removed = collection.remove(["item-004", "nobody", "item-002", "item-004"])
    assert removed == ["item-004", "item-002"]
    assert len(collection) == 18
    assert collection.search([record(4).vector], 1)[0][0].key != "item-004"
    assert collection.remove(["item-004"]) == []
    collection.add([record(4)])
    assert collection.search([record(4).vector], 1)[0][0].key == "item-004"


def test_pages_go_through_all_keys_in_order(collection: AnyCollection, record: Make) -> None:
    collection.add(map(record, range(50)))
    collection.add(Record(key, [1.0] * DIM, "") for key in ("é", "z", "😀", "Z"))
    seen: list[str] = []
    while page := collection.keys(after=seen[-1] if seen else None, limit=7):
        seen += page
    assert seen == sorted(seen)
    assert len(seen) == 54
    assert [item.key for item in collection.items(after=seen[9], limit=3)] == seen[10:13]
    assert collection.existing(["z", "nobody", "é"]) == ["z", "é"]


@pytest.mark.parametrize("key", ["", "\udcff", "nobody", "\0", "k" * 100_000])
def test_keys_that_cannot_be_there_are_not_there(
    collection: AnyCollection, record: Make, key: str
) -> None:
    collection.add([record(1)])
    assert collection.get(key) is None
    assert key not in collection
    assert collection.existing([key, "item-001"]) == ["item-001"]
    assert collection.remove([key]) == []
    with pytest.raises(KeyUnknown):
        collection.similar(key)
    if key == "\udcff":
        with pytest.raises(UsageError, match="udcff"):
            collection.keys(after=key)


def test_stats_and_describe_say_what_is_there(
    location: Location, collection: AnyCollection, record: Make
) -> None:
    collection.add(map(record, range(10)))
    collection.remove(["item-001"])
    stats = collection.stats()
    assert stats["items"] == 9
    assert stats["encoder_sha256"] == DIGEST
    assert stats["path"] == collection.location == str(location)
    described = describe(location)
    assert described["kind"] == "collection"
    assert described["items"] == 9


def test_stats_of_a_folder_say_more(folder: Path, record: Make) -> None:
    with create_collection(folder, DIGEST, DIM) as made:
        made.add(map(record, range(10)))
        made.remove(["item-001"])
        stats = made.stats()
    assert stats["labels"] == 3
    assert stats["removals"] == 1
    assert stats["sequence"] == 11
    assert stats["bytes_on_disk"] > 9 * DIM * 4
    assert describe(folder)["index"]["loaded"] is False


def test_samples_are_random_and_distinct(collection: AnyCollection, record: Make) -> None:
    assert collection.sample(3) == []
    collection.add(map(record, range(100)))
    everyone = {f"item-{number:03}" for number in range(100)}
    for count in (1, 5, 100, 1000):
        sampled = [item.key for item in collection.sample(count)]
        assert len(sampled) == len(set(sampled)) == min(count, 100)
        assert set(sampled) <= everyone
    drawn = {item.key for _ in range(30) for item in collection.sample(10)}
    assert len(drawn) > 50, "300 random draws of 100 miss few"
