"""The collection against a dictionary and brute force, under random orders of operations."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from numpy.typing import NDArray

from serving.collection import (
    AddReport,
    KeyExists,
    Record,
    create_collection,
    open_collection,
)

DIM = 3
KEYS = st.sampled_from(["a", "B", "c/d.jpg", "é", "😀", "z z"])
# Few vectors and labels: equal scores and equal items must happen often.
VECTORS = st.tuples(*[st.integers(-1, 1)] * DIM).filter(any)
METADATA = st.sampled_from([{}, {"n": 1}, {"n": 2, "t": "x"}, {"t": "x"}])
LABELS = st.sampled_from([None, "one", "two"])
RECORDS = st.builds(
    Record, KEYS, VECTORS, st.sampled_from(["/1", "/2"]), label=LABELS, metadata=METADATA
)
FILTERS = st.sampled_from([None, {}, {"label": "one"}, {"label": None, "n": 1}, {"t": "x"}])


def unit(vector: Any) -> NDArray[np.float32]:
    array = np.asarray(vector, np.float32)
    return (array / np.linalg.norm(array.astype(np.float64))).astype(np.float32)


def content(record: Record) -> tuple[Any, ...]:
    return (*unit(record.vector).tolist(), record.uri, record.label, dict(record.metadata))


def meets(record: Record, condition: Mapping[str, Any]) -> bool:
    fields = {**record.metadata, "label": record.label}
    return all(fields.get(name) == value for name, value in condition.items())


class CollectionMachine(RuleBasedStateMachine):
    """Every operation on the collection and on a dictionary; a second one reads along."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.collection = create_collection(self.folder / "c", "0" * 64, DIM)
        self.reader = open_collection(self.folder / "c")
        self.model: dict[str, Record] = {}
        self.changes = 0

    def teardown(self) -> None:
        self.collection.close()
        self.reader.close()
        shutil.rmtree(self.folder)

    @rule(batch=st.lists(RECORDS, max_size=6))
    def add(self, batch: list[Record]) -> None:
        keys = [record.key for record in batch]
        if len(set(keys)) < len(keys) or self.model.keys() & set(keys):
            with pytest.raises(KeyExists) as exists:
                self.collection.add(batch)
            assert set(exists.value.keys) <= set(keys)
            return
        self.changes += len(batch)
        assert self.collection.add(batch) == AddReport(len(batch), 0, 0, self.changes)
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
        changed = len(last) - len(new) - len(same)
        self.changes += len(new) + 2 * changed
        report = self.collection.add(batch, on_duplicate="replace")
        assert report == AddReport(len(new), changed, len(same), self.changes)
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
        self.collection = open_collection(self.folder / "c")

    @rule(
        query=VECTORS,
        k=st.integers(1, 8),
        condition=FILTERS,
        floor=st.sampled_from([None, 0.0, 0.5, 1.0]),
    )
    def search(
        self, query: Any, k: int, condition: dict[str, Any] | None, floor: float | None
    ) -> None:
        wide = unit(query).astype(np.float64)
        scored = sorted(
            (-float(np.clip((unit(record.vector) * wide).sum().round(7), -1, 1)), key)
            for key, record in self.model.items()
            if meets(record, condition or {})
        )
        expected = [(key, -score) for score, key in scored if floor is None or -score >= floor][:k]
        for searched in (self.collection, self.reader):
            hits = searched.search([query], k, min_score=floor, filter=condition)[0]
            assert [(hit.key, hit.score) for hit in hits] == expected
            for hit in hits:
                record = self.model[hit.key]
                assert (hit.uri, hit.label, hit.metadata) == (
                    record.uri,
                    record.label,
                    record.metadata,
                )

    @invariant()
    def holds_the_same(self) -> None:
        if not hasattr(self, "model"):
            return
        assert len(self.reader) == len(self.model)
        assert self.collection.keys() == sorted(self.model)
        for item in self.reader.items():
            assert content(item) == content(self.model[item.key])


TestCollection = CollectionMachine.TestCase
TestCollection.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)
