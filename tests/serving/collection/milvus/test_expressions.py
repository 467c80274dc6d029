"""Filters as expressions of Milvus: exact, and free of any text of a user."""

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.errors import UsageError
from serving.collection import Record, create_collection
from serving.collection.milvus.expressions import bounds_of, condition, facts_of, terms_of
from tests.serving.collection.contract.test_filters import matches

DIGEST = "ab" * 32

pytest.importorskip("pymilvus", reason="needs the extra milvus")
pytest.importorskip("milvus_lite", reason="needs the extra milvus")

TEXTS = st.text(max_size=12) | st.sampled_from(['" or id != ""', "{x}", "%_\\", "]", "'" * 3])
VALUES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
)
METADATA = st.dictionaries(TEXTS, VALUES | TEXTS | st.lists(VALUES | TEXTS, max_size=4), max_size=3)


@st.composite
def asked_of(draw: st.DrawFn) -> tuple[str | None, dict[str, Any], dict[str, Any]]:
    """An item's label and metadata, and a filter over its names and values, and others."""
    label, metadata = draw(st.none() | TEXTS), draw(METADATA)
    one = metadata.get(draw(st.sampled_from([*metadata, "none"])), 1)
    value = draw(st.sampled_from(one) if isinstance(one, list) and one else VALUES | TEXTS)
    name = draw(st.sampled_from([*metadata, "none"]))
    tests: list[Any] = [value, {"$ne": value}, {"$in": [value]}]
    if isinstance(value, str):
        tests += [{"$prefix": value[: len(value) // 2]}]
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        tests += [{order: value} for order in ("$gt", "$gte", "$lt", "$lte")]
    if name == "label":
        return label, metadata, {"label": label}
    expected = {name: draw(st.sampled_from(tests))}
    return label, metadata, draw(st.sampled_from([expected, {"$not": expected}]))


@settings(max_examples=300, deadline=None)
@given(asked_of())
def test_no_text_of_a_user_is_in_an_expression(
    example: tuple[str | None, dict[str, Any], dict[str, Any]],
) -> None:
    label, metadata, expected = example
    made = condition(expected)
    quoted = re.findall(r'"([^"]*)"', made.expression)
    assert all(re.fullmatch(r"[0-9a-gz]*", text) for text in quoted)
    rest = re.sub(r'"[^"]*"', "", made.expression)
    syntax = r"array_contains(_any)?|terms|bounds|not|and|or|id|[-+.0-9e]+|[()\[\],<>=!\s]"
    assert re.sub(syntax, "", rest) == ""
    assert made.holds(facts_of(label, metadata)) == matches(label, metadata, expected)
    assert len(json.dumps(bounds_of(label, metadata))) < 60_000
    assert all(len(term) == 24 for term in terms_of(label, metadata))


def test_numbers_between_two_floats_are_compared_exactly(milvus: str) -> None:
    numbers = [2**53 - 1, 2**53, 2**53 + 1, 2**53 + 2, 2.0**53, -(2**53) - 1, 10**400, 0.1]
    with create_collection(milvus, DIGEST, 1) as collection:
        collection.add(
            Record(str(location), [1.0], "", metadata={"n": number})
            for location, number in enumerate(numbers)
        )
        for expected in (2**53, 2**53 + 1, -(2**53), -(2**53) - 1, 0.1, 1e300):
            for order in ("$gt", "$gte", "$lt", "$lte"):
                (hits,) = collection.search([[1.0]], 10, filter={"n": {order: expected}})
                assert [hit.key for hit in hits] == [
                    str(location)
                    for location, number in enumerate(numbers)
                    if matches(None, {"n": number}, {"n": {order: expected}})
                ]


def test_what_milvus_cannot_judge_has_a_bound(milvus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.collection.milvus.local_filter.MOST_JUDGED", 20)
    with create_collection(milvus, DIGEST, 1) as collection:
        collection.add(
            Record(f"{number:02}", [1.0], "", metadata={"t": ["a", f"b{number}", "c"]})
            for number in range(30)
        )
        example = {"t": {"$prefix": "b1"}}
        with pytest.raises(UsageError, match="more than 20 items"):
            collection.search([[1.0]], 30, filter=example)
        collection.remove([f"{number:02}" for number in range(20, 30)])
        (hits,) = collection.search([[1.0]], 30, filter=example)
        assert [hit.key for hit in hits] == ["01", *(str(number) for number in range(10, 20))]
