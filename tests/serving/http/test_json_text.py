"""JSON as the service writes it."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from serving.http.json_text import json_bytes

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(vectors=st.lists(arrays(np.float32, st.integers(0, 5), elements=FINITE), max_size=3))
def test_vectors_read_back_as_the_same_numbers(vectors: list[np.ndarray]) -> None:
    content = {"before": 'a "quoted", [text]', "vectors": [*vectors, None], "after": 1}
    parsed = json.loads(json_bytes(content))
    ends = (parsed["before"], parsed["after"], parsed["vectors"][-1])
    assert ends == (content["before"], 1, None)
    for vector, numbers in zip(vectors, parsed["vectors"][:-1], strict=True):
        assert np.array_equal(np.array(numbers, np.float32), vector)


def test_json_without_vectors() -> None:
    assert json_bytes({"a": [1, 0.5, None, "é\ud800"]}) == '{"a":[1,0.5,null,"é?"]}'.encode()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_json_cannot_hold_is_an_error(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON"):
        json_bytes([np.array([0.5, value], np.float32)])


def test_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(TypeError, match="set is not JSON"):
        json_bytes({"a": {1, 2}})
