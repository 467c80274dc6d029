"""Filters: the same items as the plain rule over dicts, types included."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from images.errors import UsageError
from serving.collection import Record, create_collection

ITEMS: dict[str, tuple[str | None, dict[str, Any]]] = {
    "a": ("shirt", {"colour": "red", "size": 1, "sale": True}),
    "b": ("shirt", {"colour": "red", "size": 1.0, "sale": False}),
    "c": (None, {"colour": "blue", "size": "1", "sale": None}),
    "d": ("it's", {'odd "name"': "x", "$.dots": 2, "label": "inner"}),
    "e": ("shirt", {"colour": ["red"], "size": 2**70}),
    "f": ("", {"colour": "", "": "empty name"}),
}


def expected(condition: Mapping[str, Any]) -> set[str]:
    def meets(label: str | None, metadata: Mapping[str, Any], name: str, value: object) -> bool:
        found = label if name == "label" else metadata.get(name)
        if isinstance(found, bool) is not isinstance(value, bool):
            return False
        return found == value

    return {
        key
        for key, (label, metadata) in ITEMS.items()
        if all(meets(label, metadata, name, value) for name, value in condition.items())
    }


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
    ],
)
def test_filters_find_what_the_plain_rule_finds(tmp_path: Path, condition: dict[str, Any]) -> None:
    with create_collection(tmp_path / "c", "0" * 64, 2) as collection:
        collection.add(
            Record(key, [1.0, 0.0], "", label=label, metadata=metadata)
            for key, (label, metadata) in ITEMS.items()
        )
        hits = collection.search([[1.0, 0.0]], 10, filter=condition)[0]
    assert [hit.key for hit in hits] == sorted(expected(condition))


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ({"label": 3}, ["label", "3"]),
        ({"colour": ["red"]}, ["colour", "red"]),
        ({"colour": {"not": "red"}}, ["colour", "not"]),
        ({"size": float("nan")}, ["size", "nan"]),
        ({"size": 10**400}, ["size", "finite"]),
        ({3: "x"}, ["3"]),
        ({"colour": "\ud800"}, ["colour"]),
        ({"\ud800": "x"}, ["name"]),
    ],
)
def test_other_values_are_refused(
    tmp_path: Path, condition: dict[Any, Any], words: list[str]
) -> None:
    with (
        create_collection(tmp_path / "c", "0" * 64, 2) as collection,
        pytest.raises(UsageError) as refused,
    ):
        collection.search([[1.0, 0.0]], 10, filter=condition)
    for word in words:
        assert word in str(refused.value)
