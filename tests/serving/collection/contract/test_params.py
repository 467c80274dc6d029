"""Each refusal of a parameter carries its name, so that nobody has to read the message for it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from base.errors import UsageError
from serving.collection import KeyExists, KeyUnknown, Record
from serving.collection.contract.filters import DEEPEST, selection
from serving.collection.contract.keys import page_start
from serving.collection.contract.mixing import mixed_query
from serving.collection.contract.records import checked_rows
from serving.collection.contract.search_limits import check_bounds

NONE, ONE = np.zeros((0, 2), np.float32), np.eye(2, dtype=np.float32)[:1]
GOOD: dict[str, Any] = {"key": "a", "vector": [3.0, 4.0], "uri": "/a.jpg"}


def nested(depth: int) -> dict[str, Any]:
    return {"$not": nested(depth - 1)} if depth else {"a": 1}


@pytest.mark.parametrize(
    ("call", "param"),
    [
        (lambda: check_bounds(0, None), "k"),
        (lambda: check_bounds(1, float("nan")), "min_score"),
        (lambda: check_bounds(None, None), "min_score"),
        (lambda: page_start("\ud800"), "after"),
        (lambda: mixed_query(NONE, ONE), "positive"),
        (lambda: mixed_query(ONE, NONE, -1.0), "negative_weight"),
        (lambda: mixed_query(ONE, ONE, 1.0), None),  # the examples as a whole
    ],
)
def test_a_search_names_its_parameter(call: Callable[[], object], param: str | None) -> None:
    with pytest.raises(UsageError) as refused:
        call()
    assert refused.value.param == param


@pytest.mark.parametrize(
    "condition",
    [
        "label",
        {1: 2},
        {"a": {"$like": 1}},
        {"a": {"$prefix": 1}},
        {"a": {"$in": 1}},
        {"label": 1},
        {"$and": []},
        {"a": float("inf")},
        {"a": [1]},
        {"a": "\ud800"},
        nested(DEEPEST + 1),
    ],
)
def test_a_filter_names_itself(condition: Any) -> None:
    with pytest.raises(UsageError, match=r"^filter: ") as refused:
        selection(condition)
    assert refused.value.param == "filter"


def test_twenty_filters_inside_each_other_are_the_most() -> None:
    assert DEEPEST == 20
    selection(nested(20))
    with pytest.raises(UsageError, match="more than 20 filters inside each other"):
        selection(nested(21))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("key", ""),
        ("key", "k" * 1025),
        ("key", "\ud800"),
        ("vector", [1.0]),
        ("vector", [0.0, 0.0]),
        ("vector", ["a", "b"]),
        ("vector", [[1.0], [1.0, 2.0]]),
        ("uri", None),
        ("label", 5),
        ("label", "\ud800"),
        ("width", 0),
        ("height", True),
        ("sha256", 5),
        ("metadata", []),
        ("metadata", {1: 2}),
        ("metadata", {"a": float("nan")}),
    ],
)
def test_an_item_names_its_field(field: str, value: Any) -> None:
    with pytest.raises(UsageError) as refused:
        checked_rows([Record(**{**GOOD, field: value})], 2)
    assert refused.value.param == field


def test_keys_name_theirs() -> None:
    assert KeyExists(["a"]).param == KeyUnknown("a").param == "key"
