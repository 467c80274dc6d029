"""Each route's fields: what a refusal says, and that the description says the same."""

from typing import Any

import pytest

from serving.http.request.errors import HttpError
from serving.http.request.fields import Limits, RequestFields, Text
from serving.http.routes.fields import (
    AddFields,
    AddListFields,
    EmbedFields,
    InferFields,
    ListFields,
    OpenAIFields,
    SearchFields,
    ThumbnailFields,
)

LIMITS = Limits(dim=3, neighbors=500, images=2)


@pytest.mark.parametrize(
    ("fields", "values", "message"),
    [
        (SearchFields, {"k": 0}, "k is 0: a whole number from 1 to 500 is needed"),
        (SearchFields, {"k": 501}, "k is 501: a whole number from 1 to 500 is needed"),
        (SearchFields, {"k": True}, "k is True: a whole number from 1 to 500 is needed"),
        (SearchFields, {"k": Text("many")}, "k is 'many': a whole number from 1 to 500 is needed"),
        (SearchFields, {"min_score": 2}, "min_score is 2: a number from -1 to 1 is needed"),
        (SearchFields, {"exact": 1}, "exact is 1: true or false is needed"),
        (SearchFields, {"filter": []}, "filter is []: a JSON object is needed"),
        (SearchFields, {"positive": {}}, "positive is {}: a JSON list is needed"),
        (SearchFields, {"key": 5}, "key is 5: a text is needed"),
        (SearchFields, {"vector": "x"}, "vector is 'x': a list of 3 numbers is needed"),
        (
            SearchFields,
            {"negative_weight": 101},
            "negative_weight is 101: a number from 0 to 100 is needed",
        ),
        (SearchFields, {"kk": 3}, "'kk' is not known: did you mean k?"),
        (ThumbnailFields, {"x": 1}, "'x' is not known: this route takes size"),
        (ListFields, {"limit": 1001}, "limit is 1001: a whole number from 1 to 1000 is needed"),
        (
            EmbedFields,
            {"dtype": "float64"},
            "dtype is 'float64': choose float32 or float16 or int8 or binary",
        ),
        (AddFields, {"on_duplicate": "x"}, "on_duplicate is 'x': choose refuse or replace"),
        (AddFields, {"metadata": Text("[]")}, "metadata is []: a JSON object is needed"),
        (AddListFields, {"items": [{}] * 3}, "3 items: send at most 2 in one request"),
        (AddListFields, {"items": [{"label": 5}]}, "label is 5: a text is needed"),
        (
            OpenAIFields,
            {"dimensions": 4},
            "dimensions is 4: a whole number from 1 to 3 is needed",
        ),
        (InferFields, {"parameters": 1}, "parameters is 1: a JSON object is needed"),
    ],
)
def test_a_refusal_names_field_value_and_remedy(
    fields: type[RequestFields], values: dict[str, Any], message: str
) -> None:
    with pytest.raises(HttpError) as refused:
        fields.read(values, LIMITS)
    assert refused.value.message == message
    name = next(iter(values))
    assert refused.value.param == ("items[0].label" if message.startswith("label") else name)


def test_text_is_read_as_the_field_needs_it() -> None:
    texts = {"k": "3", "key": '"a"', "filter": '{"a": 1}', "exact": "true", "min_score": "null"}
    fields = SearchFields.read({name: Text(value) for name, value in texts.items()}, LIMITS)
    assert (fields.k, fields.key, fields.filter, fields.exact) == (3, "a", {"a": 1}, True)
    assert fields.model_fields_set == {"k", "key", "filter", "exact"}
    assert SearchFields.read({"key": Text("12")}, LIMITS).key == "12"


def test_null_is_absent() -> None:
    assert SearchFields.read({"k": None, "positive": None, "vector": None}, LIMITS).k == 10
    assert AddListFields.read({"items": [{"metadata": None}]}, LIMITS).items[0].metadata == {}


def test_the_description_has_bounds_choices_and_meaning() -> None:
    properties = SearchFields.properties
    assert properties["k"] == {
        "type": "integer",
        "minimum": 1,
        "default": 10,
        "description": "the most neighbors",
    }
    assert properties["vector"]["items"] == {"type": "number"}
    assert EmbedFields.properties["dtype"]["enum"] == ["float32", "float16", "int8", "binary"]
    row = AddListFields.properties["items"]["items"]["properties"]
    assert set(row) == {"key", "label", "metadata", "uri", "vector", "image"}
    assert "$ref" not in str(AddListFields.properties)
