"""Filters: the same items as the plain rule over dicts, types included."""

import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from base.errors import UsageError
from serving.collection import Record, create_collection
from serving.collection.contract.locations import Location
from serving.collection.ledger.sqlite_errors import translated_errors

ITEMS: dict[str, tuple[str | None, dict[str, Any]]] = {
    "a": ("shirt", {"colour": "red", "size": 1, "sale": True}),
    "b": ("shirt", {"colour": "red", "size": 1.0, "sale": False}),
    "c": (None, {"colour": "blue", "size": "1", "sale": None}),
    "d": ("it's", {'odd "name"': "x", "$.dots": 2, "label": "inner"}),
    "e": ("shirt", {"colour": ["red"], "size": 2**70, "lists": [None, 3]}),
    "f": ("", {"colour": "", "": "empty name", "lists": [None]}),
}


def equal(actual: object, value: object) -> bool:
    return isinstance(actual, bool) is isinstance(value, bool) and actual == value


def like(actual: object, value: object) -> bool:
    """Whether two values can be put in order."""
    kinds = (str, (int, float))
    return any(
        isinstance(actual, kind) and isinstance(value, kind) for kind in kinds
    ) and not isinstance(actual, bool)


TESTS: dict[str, Callable[[Any, Any], bool]] = {
    "$eq": equal,
    "$gt": lambda actual, value: like(actual, value) and actual > value,
    "$gte": lambda actual, value: like(actual, value) and actual >= value,
    "$lt": lambda actual, value: like(actual, value) and actual < value,
    "$lte": lambda actual, value: like(actual, value) and actual <= value,
    "$prefix": lambda actual, value: isinstance(actual, str) and actual.startswith(value),
}


def matches(label: str | None, metadata: Mapping[str, Any], condition: Mapping[str, Any]) -> bool:
    """The rule, written plainly."""

    def holds(name: str, value: Any) -> bool:
        if name == "$and":
            return all(matches(label, metadata, one) for one in value)
        if name == "$or":
            return any(matches(label, metadata, one) for one in value)
        if name == "$not":
            return not matches(label, metadata, value)
        actual = label if name == "label" else metadata.get(name)
        tests = value if isinstance(value, dict) else {"$eq": value}
        return all(field(actual, operator, operand) for operator, operand in tests.items())

    def field(actual: Any, operator: str, operand: Any) -> bool:
        if operator == "$ne":
            return not field(actual, "$eq", operand)
        if operator == "$in":
            return any(field(actual, "$eq", one) for one in operand)
        if operator == "$nin":
            return not field(actual, "$in", operand)
        if operand is None:  # a list that holds null is something
            return actual is None
        candidates = [actual, *actual] if isinstance(actual, list) else [actual]
        return any(TESTS[operator](one, operand) for one in candidates)

    return all(holds(name, value) for name, value in condition.items())


def expected(condition: Mapping[str, Any]) -> set[str]:
    return {key for key, (label, metadata) in ITEMS.items() if matches(label, metadata, condition)}


@pytest.mark.parametrize(
    "condition",
    [
        {},
        {"label": "shirt"},
        {"label": None},
        {"label": "it's"},
        {"label": ""},
        {"colour": "red"},
        {"colour": ""},
        {"colour": None},
        {"lists": None},
        {"lists": {"$in": [None, 3]}},
        {"lists": {"$nin": [None, 3]}},
        {"size": {"$in": []}},
        {"size": {"$nin": []}},
        {"label": {"$nin": ["shirt"]}},
        {"size": 1},
        {"size": 1.0},
        {"size": "1"},
        {"size": 2**70},
        {"size": 2**70 + 2**40},
        {"sale": True},
        {"sale": False},
        {"sale": None},
        {'odd "name"': "x"},
        {"$.dots": 2},
        {"": "empty name"},
        {"label": "shirt", "colour": "red", "sale": True},
        {"label": "shirt", "missing": None},
        {"colour": "red' OR '1'='1"},
        {"colour": {"$ne": "red"}},
        {"label": {"$ne": "shirt"}},
        {"label": {"$in": ["shirt", ""]}},
        {"label": {"$in": ["it's", None]}},
        {"size": {"$in": [1, "1"]}},
        {"size": {"$gte": 1, "$lt": 2}},
        {"size": {"$gt": 1}},
        {"size": {"$lte": "1"}},
        {"colour": {"$gt": "blue", "$lte": "red"}},
        {"colour": {"$prefix": "r"}},
        {"colour": {"$prefix": ""}},
        {"colour": {"$prefix": "\U0010ffff"}},
        {"colour": {"$prefix": "\ud7ff"}},
        {"label": {"$prefix": "sh"}},
        {"label": {"$lt": "j"}},
        {"$or": [{"colour": "blue"}, {"sale": True}]},
        {"$and": [{"colour": "red"}, {"sale": False}], "label": "shirt"},
        {"$not": {"label": "shirt"}},
        {"$not": {"$or": [{"colour": "red"}, {"label": None}]}},
        {"$not": {}},
        {"colour": {}},
    ],
)
def test_filters_find_what_the_plain_rule_finds(
    location: Location, condition: dict[str, Any]
) -> None:
    with create_collection(location, "0" * 64, 2) as collection:
        collection.add(
            Record(key, [1.0, 0.0], "", label=label, metadata=metadata)
            for key, (label, metadata) in ITEMS.items()
        )
        hits = collection.search([[1.0, 0.0]], 10, filter=condition)[0]
    assert [hit.key for hit in hits] == sorted(expected(condition))


def test_what_is_removed_is_not_found(folder: Path) -> None:
    with create_collection(folder, "0" * 64, 2) as collection:
        collection.add([Record("a", [1.0, 0.0], "", metadata={"n": [1, 2], "t": "x"})])
        collection.remove(["a"])
        with collection._ledger.reading() as view:
            assert view._one("SELECT count(*) FROM fields") == 0


def test_filters_inside_filters_end_somewhere(location: Location) -> None:
    condition: dict[str, Any] = {"colour": "red"}
    for _ in range(30):
        condition = {"$not": condition}
    with (
        create_collection(location, "0" * 64, 2) as collection,
        pytest.raises(UsageError, match="filters inside"),
    ):
        collection.search([[1.0, 0.0]], filter=condition)


@pytest.mark.parametrize(
    ("condition", "messages"),
    [
        ({"label": 3}, ["label", "3"]),
        ({"colour": ["red"]}, ["colour", "red"]),
        ({"colour": {"not": "red"}}, ["colour", "not"]),
        ({"colour": {"$in": "red"}}, ["colour", "$in"]),
        ({"colour": {"$prefix": 3}}, ["colour", "$prefix"]),
        ({"sale": {"$gt": True}}, ["sale", "$gt"]),
        ({"label": {"$gt": 3}}, ["label", "3"]),
        ({"$or": []}, ["$or"]),
        ({"$and": {"colour": "red"}}, ["$and"]),
        ({"$not": "red"}, ["red"]),
        ({"size": float("nan")}, ["size", "nan"]),
        ({"size": 10**400}, ["size", "finite"]),
        ({3: "x"}, ["3"]),
        ({"colour": "\ud800"}, ["colour"]),
        ({"\ud800": "x"}, ["name"]),
    ],
)
def test_other_values_are_refused(
    location: Location, condition: dict[Any, Any], messages: list[str]
) -> None:
    with (
        create_collection(location, "0" * 64, 2) as collection,
        pytest.raises(UsageError) as refused,
    ):
        collection.search([[1.0, 0.0]], 10, filter=condition)
    for word in messages:
        assert word in str(refused.value)


def test_large_filters_find_what_small_ones_do(folder: Path) -> None:
    with create_collection(folder, "0" * 64, 2) as collection:
        collection.add(
            Record(key, [1.0, 0.0], "", label=label, metadata=metadata)
            for key, (label, metadata) in ITEMS.items()
        )

        def keys(condition: dict[str, Any]) -> list[str]:
            return [hit.key for hit in collection.search([[1.0, 0.0]], 10, filter=condition)[0]]

        spare = [*range(100, 9_000), *map(str, range(100, 200)), False]
        assert keys({"size": {"$in": [*spare, 1]}}) == ["a", "b"]
        assert keys({"label": {"$in": [*map(str, range(9_000)), "it's", None]}}) == ["c", "d"]
        assert keys({"$not": {"size": {"$in": [*spare, 1]}}}) == ["c", "d", "e", "f"]
        assert keys({"$or": [{"size": n} for n in range(200)]}) == ["a", "b"]
        assert keys({f"missing{n}": None for n in range(450)}) == list("abcdef")


@pytest.mark.parametrize(
    "condition",
    [
        {"size": {"$in": list(range(100_000))}},
        {"$or": [{"size": 1}] * 100_000},
        {f"name{n}": 1 for n in range(2_000)},
        {"$and": [{"$or": [{"size": 1}] * 30}] * 30},
        {"$not": {"$not": {f"name{n}": 1 for n in range(2_000)}}},
    ],
)
def test_filters_are_bounded(folder: Path, condition: dict[str, Any]) -> None:
    with (
        create_collection(folder, "0" * 64, 2) as collection,
        pytest.raises(UsageError, match=r"more than 500 conditions|at most 10000|more than 10000"),
    ):
        collection.search([[1.0, 0.0]], 10, filter=condition)


def test_what_is_bounded_is_conditions_wherever_they_are(folder: Path) -> None:
    lists = {str(name): {"$in": [*range(9_000)]} for name in range(2)}
    with create_collection(folder, "0" * 64, 2) as collection:
        collection.search([[1.0, 0.0]], 1, filter={"$or": [{"size": n} for n in range(500)]})
        with pytest.raises(UsageError, match="filter: it has more than 500 conditions"):
            collection.search([[1.0, 0.0]], 1, filter={"$or": [{"size": n} for n in range(501)]})
        with pytest.raises(UsageError, match=r"filter: its lists of \$in have more than 10000"):
            collection.search([[1.0, 0.0]], 1, filter=lists)


def test_a_statement_that_is_too_large_is_not_damage(tmp_path: Path) -> None:
    connection = sqlite3.connect(":memory:")
    statement = f"SELECT 1 WHERE 1 IN ({', '.join('?' * 300_000)})"
    with (
        pytest.raises(UsageError, match="filter: SQLite cannot take it: too many"),
        translated_errors(tmp_path),
    ):
        connection.execute(statement, [0] * 300_000)
    connection.close()
