"""Collections against a dictionary and brute force, under random orders of operations.

A few seconds for each place; `pytest --hypothesis-profile long` takes its time.
"""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from numpy.typing import NDArray

from base.errors import UsageError
from serving.collection import (
    AddReport,
    AnyCollection,
    KeyExists,
    KeyUnknown,
    Record,
    create_collection,
    open_collection,
)
from serving.collection.contract.locations import Location
from tests.serving.collection.contract.test_filters import matches

DIM = 3
KEYS = st.sampled_from(["a", "B", "c/d.jpg", "é", "😀", "z \"z' \\ {x} %", "\n\t"])
# Few vectors and labels: equal scores and equal items must happen often.
VECTORS = st.tuples(*[st.integers(-1, 1)] * DIM).filter(any)
SCALARS = st.sampled_from(
    [None, True, 0, 1, 1.5, 2**70, "", "x", "xy", 'x" or 1 == 1 or "', "x" * 200]
)
METADATA = st.dictionaries(
    st.sampled_from(["n", 't"\\']), SCALARS | st.lists(SCALARS, max_size=4), max_size=2
)
LABELS = st.sampled_from([None, "one", "two", 'o"{}'])
RECORDS = st.builds(
    Record, KEYS, VECTORS, st.sampled_from(["/1", "/2"]), label=LABELS, metadata=METADATA
)
TEXTS = st.sampled_from(["", "o", "x", "xy", "two", 'x" or', "x" * 200, "x" * 150])
NUMBERS = st.sampled_from([0, 1, 1.5, -1, 2**53 + 1])
ORDERS = st.sampled_from(["$gt", "$gte", "$lt", "$lte"])


def asked_of(values: st.SearchStrategy[Any], ordered: st.SearchStrategy[Any]) -> Any:
    return (
        values
        | st.dictionaries(ORDERS, ordered, max_size=2)
        | st.fixed_dictionaries({"$prefix": TEXTS})
        | st.fixed_dictionaries({"$ne": values})
        | st.fixed_dictionaries({"$in": st.lists(values, min_size=1, max_size=3)})
    )


ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "label": asked_of(LABELS, TEXTS),
        "n": asked_of(SCALARS, NUMBERS),
        't"\\': asked_of(SCALARS, TEXTS),
    },
)
FILTERS = st.none() | st.recursive(
    ENTRIES,
    lambda inner: (
        st.fixed_dictionaries({"$not": inner})
        | st.fixed_dictionaries({"$or": st.lists(inner, min_size=1, max_size=3)})
        | st.fixed_dictionaries({"$and": st.lists(inner, min_size=1, max_size=3)})
    ),
    max_leaves=4,
)


def unit(vector: Any) -> NDArray[np.float32]:
    array = np.asarray(vector, np.float32)
    return (array / np.linalg.norm(array.astype(np.float64))).astype(np.float32)


def content(record: Record) -> tuple[Any, ...]:
    return (
        *unit(record.vector).tolist(),
        record.uri,
        record.label,
        json.dumps(record.metadata, sort_keys=True),
    )


class CollectionMachine(RuleBasedStateMachine):
    """Every operation on the collection and on a dictionary; a second one reads along."""

    counts_changes: ClassVar[bool] = True

    new_location: ClassVar[Callable[[], Location]]

    @initialize()
    def begin(self) -> None:
        self.location = type(self).new_location()
        self.collection: AnyCollection = create_collection(self.location, "0" * 64, DIM)
        self.reader: AnyCollection = open_collection(self.location)
        self.model: dict[str, Record] = {}
        self.changes = 0

    def teardown(self) -> None:
        if hasattr(self, "model"):
            self.collection.close()
            self.reader.close()

    def report(self, added: int, replaced: int, unchanged: int) -> AddReport:
        self.changes += added + 2 * replaced
        return AddReport(added, replaced, unchanged, self.changes if self.counts_changes else None)

    @rule(batch=st.lists(RECORDS, max_size=6))
    def add(self, batch: list[Record]) -> None:
        keys = [record.key for record in batch]
        if len(set(keys)) < len(keys) or self.model.keys() & set(keys):
            with pytest.raises(KeyExists) as exists:
                self.collection.add(batch)
            assert set(exists.value.keys) <= set(keys)
            return
        assert self.collection.add(batch) == self.report(len(batch), 0, 0)
        self.model.update({record.key: record for record in batch})

    @rule(batch=st.lists(RECORDS, max_size=6))
    def replace(self, batch: list[Record]) -> None:
        last = {record.key: record for record in batch}
        new = [key for key in last if key not in self.model]
        same = [
            key
            for key, record in last.items()
            if key in self.model and content(self.model[key]) == content(record)
        ]
        expected = self.report(len(new), len(last) - len(new) - len(same), len(same))
        assert self.collection.add(batch, on_duplicate="replace") == expected
        self.model.update(last)

    @rule(keys=st.lists(KEYS, max_size=4))
    def remove(self, keys: list[str]) -> None:
        expected = [key for key in dict.fromkeys(keys) if key in self.model]
        assert self.collection.remove(keys) == expected
        self.changes += len(expected)
        for key in expected:
            del self.model[key]

    @rule()
    def open_again(self) -> None:
        self.collection.close()
        self.collection = open_collection(self.location)

    @rule(
        query=VECTORS,
        k=st.integers(1, 8),
        condition=FILTERS,
        floor=st.sampled_from([None, 0.0, 0.5, 1.0]),
        exact=st.booleans(),
    )
    def search(
        self, query: Any, k: int, condition: dict[str, Any] | None, floor: float | None, exact: bool
    ) -> None:
        scored = self.scored(unit(query), condition)
        expected = [(key, score) for key, score in scored if floor is None or score >= floor][:k]
        for searched in (self.collection, self.reader):
            hits = searched.search([query], k, min_score=floor, filter=condition, exact=exact)[0]
            assert [(hit.key, hit.score) for hit in hits] == expected
            for hit in hits:
                record = self.model[hit.key]
                assert (hit.uri, hit.label, hit.metadata) == (
                    record.uri,
                    record.label,
                    record.metadata,
                )

    def scored(
        self, query: NDArray[np.float32], condition: dict[str, Any] | None
    ) -> list[tuple[str, float]]:
        """Every item that meets the filter with its score, in the order of an answer."""
        wide = query.astype(np.float64)
        scored = sorted(
            (-float(np.clip((unit(record.vector) * wide).sum().round(7), -1, 1)), key)
            for key, record in self.model.items()
            if matches(record.label, record.metadata, condition or {})
        )
        return [(key, -score) for score, key in scored]

    @rule(query=VECTORS, condition=FILTERS, floor=st.sampled_from([-1.0, 0.0, 0.5, 1.0]))
    def search_everything(self, query: Any, condition: dict[str, Any] | None, floor: float) -> None:
        expected = [one for one in self.scored(unit(query), condition) if one[1] >= floor]
        hits = self.reader.search([query], None, min_score=floor, filter=condition)[0]
        assert [(hit.key, hit.score) for hit in hits] == expected

    @rule(
        positive=st.lists(KEYS | VECTORS, min_size=1, max_size=3),
        negative=st.lists(KEYS | VECTORS, max_size=2),
        weight=st.sampled_from([0.0, 0.5, 1.0]),
        k=st.integers(1, 8),
    )
    def search_mixed(self, positive: list[Any], negative: list[Any], weight: float, k: int) -> None:
        keys = {one for one in (*positive, *negative) if isinstance(one, str)}

        def query_hits() -> list[tuple[str, float]]:
            hits = self.reader.search_mixed(positive, negative, k, negative_weight=weight)
            return [(hit.key, hit.score) for hit in hits]

        if not keys <= self.model.keys():
            with pytest.raises(KeyUnknown):
                query_hits()
            return
        groups = [
            [unit(self.model[one].vector if isinstance(one, str) else one) for one in examples]
            for examples in (positive, negative)
        ]
        means = [np.mean(group, 0, np.float64) if group else np.zeros(DIM) for group in groups]
        mixture = means[0] - weight * means[1]
        length = float(np.linalg.norm(mixture))
        if length < 1e-3:  # else it is a thousandth at least: examples are whole numbers
            with pytest.raises(UsageError, match="cancel"):
                query_hits()
            return
        query: NDArray[np.float32] = np.asarray(mixture / length, np.float32)
        expected = [one for one in self.scored(query, None) if one[0] not in keys]
        assert query_hits() == expected[:k]

    @rule(query=VECTORS, k=st.integers(1, 8))
    def suggest_labels(self, query: Any, k: int) -> None:
        nearest = [(self.model[key].label, s) for key, s in self.scored(unit(query), None)[:k]]
        votes = [(label, np.exp(score / 0.1)) for label, score in nearest if label is not None]
        (suggestion,) = self.reader.suggest_labels([query], k)
        assert suggestion.unlabelled == len(nearest) - len(votes)
        assert {one.label for one in suggestion.labels} == {label for label, _ in votes}
        for one in suggestion.labels:
            own = sum(weight for label, weight in votes if label == one.label)
            assert one.share == pytest.approx(own / sum(weight for _, weight in votes))

    @invariant()
    def holds_the_same(self) -> None:
        if not hasattr(self, "model"):
            return
        assert len(self.reader) == len(self.model)
        assert self.collection.keys() == sorted(self.model)
        for item in self.reader.items():
            assert content(item) == content(self.model[item.key])


def run(machine: type[CollectionMachine], share: float) -> None:
    """With a share of the examples of the profile in use."""
    profile = settings()
    short = settings(
        profile,
        max_examples=max(1, round(share * profile.max_examples)),
        stateful_step_count=25,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    run_state_machine_as_test(machine, settings=short)


def test_in_a_folder(tmp_path: Path) -> None:
    numbers = itertools.count()

    class FolderMachine(CollectionMachine):
        new_location = staticmethod(lambda: tmp_path / str(next(numbers)))

    run(FolderMachine, 0.2)


def test_in_milvus(milvus_file: Path) -> None:
    numbers = itertools.count()

    class MilvusMachine(CollectionMachine):
        counts_changes = False
        new_location = staticmethod(lambda: f"milvus+file:{milvus_file}#model_{next(numbers)}")

    run(MilvusMachine, 0.1)
