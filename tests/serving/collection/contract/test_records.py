"""What may enter a collection; each refusal names the key and the value."""

from typing import Any

import numpy as np
import pytest

from base.errors import UsageError
from serving.collection.contract.records import Record, checked_rows, unit_vectors

GOOD: dict[str, Any] = {"key": "a", "vector": [3.0, 4.0], "uri": "/a.jpg"}


def test_vectors_are_brought_to_length_one() -> None:
    (row,) = checked_rows([Record(**GOOD)], 2)
    assert np.frombuffer(row.vector, "<f4").tolist() == [np.float32(0.6), np.float32(0.8)]


def test_a_vector_of_length_one_is_kept_bit_for_bit() -> None:
    rng = np.random.default_rng(0)
    vectors = unit_vectors(rng.standard_normal((500, 64)), 64, ["v"] * 500)
    again = unit_vectors(vectors, 64, ["v"] * 500)
    assert again.tobytes() == vectors.tobytes()


@pytest.mark.parametrize("size", [1e-42, 1e-30, 1e30])
def test_length_does_not_matter(size: float) -> None:
    """Lengths are computed in float64: float32 squares would vanish or overflow."""
    (vector,) = unit_vectors([[size, 0.0]], 2, ["v"])
    assert vector.tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        ({"key": ""}, ["number 0", "''"]),
        ({"key": 7}, ["number 0", "7"]),
        ({"key": "k" * 1025}, ["1025 bytes", "1024"]),
        ({"key": "é" * 513}, ["1026 bytes"]),
        ({"key": "a\udcff"}, ["key", "udcff"]),
        ({"vector": [1.0, 2.0, 3.0]}, ["'a'", "[3]", "[2]"]),
        ({"vector": [[1.0, 2.0]]}, ["'a'", "[1, 2]"]),
        ({"vector": 1.0}, ["'a'", "[]"]),
        ({"vector": [1.0, float("nan")]}, ["'a'", "nan", "position 1"]),
        ({"vector": [float("inf"), 1.0]}, ["'a'", "inf", "position 0"]),
        ({"vector": [1e300, 1.0]}, ["'a'", "inf", "position 0"]),
        ({"vector": [0.0, 0.0]}, ["'a'", "zero"]),
        ({"vector": ["x", "y"]}, ["'a'", "numbers"]),
        ({"vector": [1.0, [2.0]]}, ["'a'", "numbers"]),
        ({"vector": None}, ["'a'", "numbers"]),
        ({"uri": None}, ["'a'", "uri", "None"]),
        ({"uri": "a\ud800"}, ["'a'", "uri"]),
        ({"label": 3}, ["'a'", "label", "3"]),
        ({"width": 0}, ["'a'", "width", "0"]),
        ({"height": 1.5}, ["'a'", "height", "1.5"]),
        ({"width": True}, ["'a'", "width", "True"]),
        ({"metadata": ["x"]}, ["'a'", "metadata"]),
        ({"metadata": {"x": float("nan")}}, ["'a'", "metadata"]),
        ({"metadata": {"x": {1}}}, ["'a'", "metadata"]),
        ({"metadata": {1: "x"}}, ["'a'", "metadata"]),
        ({"metadata": {"x": (1, 2)}}, ["'a'", "metadata"]),
        ({"metadata": {"x": "\udcff"}}, ["'a'", "metadata"]),
        ({"metadata": {"x": "é" * 2**15}}, ["'a'", "metadata has 65544 bytes", "65536"]),
        ({"label": "é" * 2**15 + "x"}, ["'a'", "label has 65537 bytes", "65536"]),
        ({"key": "."}, ["'.'", "no path"]),
        ({"key": ".."}, ["'..'", "no path"]),
    ],
)
def test_refusals_name_the_item_and_the_value(change: dict[str, Any], messages: list[str]) -> None:
    with pytest.raises(UsageError) as refused:
        checked_rows([Record(**{**GOOD, **change})], 2)
    for word in messages:
        assert word in str(refused.value)
    assert "\n" not in str(refused.value)


def test_metadata_nested_too_deeply_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(UsageError, match="'a'"):
        checked_rows([Record(**GOOD, metadata={"deep": deep})], 2)


def test_equal_metadata_are_equal_texts() -> None:
    one, other = {"b": 1, "a": "é"}, {"a": "é", "b": 1}
    texts = {checked_rows([Record(**GOOD, metadata=m)], 2)[0].metadata for m in (one, other)}
    assert texts == {'{"a":"é","b":1}'}


def test_the_longest_key_and_numpy_sizes_are_fine() -> None:
    change = {"key": "k" * 1024, "width": np.int32(3), "vector": np.array([1, 0])}
    (row,) = checked_rows([Record(**{**GOOD, **change})], 2)
    assert (len(row.key), row.width) == (1024, 3)
