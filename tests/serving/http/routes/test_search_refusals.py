"""POST /search: what is refused, and in which words."""

import json
from typing import Any

import numpy as np
import pytest

from tests.serving.http.conftest import Running, png

NUMBERS = [0.5] * 24


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, (422, "missing-image", "image")),
        ({"k": 3}, (422, "missing-image", "image")),
        ({"key": "nothing/here.jpg"}, (404, "unknown-key", "key")),
        ({"key": 5}, (422, "invalid-parameter", "key")),
        ({"key": ""}, (422, "invalid-parameter", "key")),
        ({"key": "\ud800"}, (422, "invalid-parameter", "key")),
        ({"key": "discs/00.jpg", "vector": NUMBERS}, (422, "several-queries", "key")),
        ({"vector": NUMBERS[1:]}, (422, "invalid-parameter", "vector")),
        ({"vector": []}, (422, "invalid-parameter", "vector")),
        ({"vector": [0] * 24}, (422, "invalid-parameter", "vector")),
        ({"vector": [1e39] * 24}, (422, "invalid-parameter", "vector")),
        ({"vector": [10**400] * 24}, (422, "invalid-parameter", "vector")),
        ({"vector": ["1"] * 24}, (422, "invalid-parameter", "vector")),
        ({"vector": [True] * 24}, (422, "invalid-parameter", "vector")),
        ({"vector": "abc"}, (422, "invalid-parameter", "vector")),
        ({"vector": NUMBERS, "k": 0}, (422, "invalid-parameter", "k")),
        ({"vector": NUMBERS, "k": 1001}, (422, "invalid-parameter", "k")),
        ({"vector": NUMBERS, "k": 2.5}, (422, "invalid-parameter", "k")),
        ({"vector": NUMBERS, "k": True}, (422, "invalid-parameter", "k")),
        ({"vector": NUMBERS, "k": "many"}, (422, "invalid-parameter", "k")),
        ({"vector": NUMBERS, "min_score": 1.5}, (422, "invalid-parameter", "min_score")),
        ({"vector": NUMBERS, "min_score": "high"}, (422, "invalid-parameter", "min_score")),
        ({"vector": NUMBERS, "filter": "label"}, (422, "invalid-parameter", "filter")),
        ({"vector": NUMBERS, "filter": {"a": [1]}}, (422, "invalid-parameter", "filter")),
        ({"vector": NUMBERS, "filter": {"\ud800": 1}}, (422, "invalid-parameter", "filter")),
        ({"vector": NUMBERS, "kk": 3}, (422, "unknown-parameter", "kk")),
        ({"vector": NUMBERS, "all": True}, (422, "invalid-parameter", "min_score")),
        ({"vector": NUMBERS, "all": True, "min_score": 0, "k": 3}, (422, "invalid-parameter", "k")),
        ({"vector": NUMBERS, "all": 1}, (422, "invalid-parameter", "all")),
        ({"positive": []}, (422, "invalid-parameter", "positive")),
        ({"negative": [{"key": "discs/00.jpg"}]}, (422, "invalid-parameter", "positive")),
        ({"positive": {"key": "a"}}, (422, "invalid-parameter", "positive")),
        ({"positive": ["a"]}, (422, "invalid-parameter", "positive[0]")),
        ({"positive": [{"key": "discs/00.jpg", "vector": NUMBERS}]},
         (422, "invalid-parameter", "positive[0]")),
        ({"positive": [{"url": "x"}]}, (422, "invalid-parameter", "positive[0]")),
        ({"positive": [{"key": None}]}, (422, "invalid-parameter", "positive[0].key")),
        ({"positive": [{"key": "\ud800"}]}, (422, "invalid-parameter", "positive[0].key")),
        ({"positive": [{"key": "nobody"}]}, (404, "unknown-key", "key")),
        ({"positive": [{"vector": NUMBERS[1:]}]}, (422, "invalid-parameter", "positive[0].vector")),
        ({"positive": [{"vector": NUMBERS}, {"image": "aGVsbG8="}]},
         (422, "not-an-image", "positive[1].image")),
        ({"positive": [{"vector": NUMBERS}], "negative": [{"image": "%"}]},
         (400, "malformed-base64", "negative[0].image")),
        ({"positive": [{"vector": NUMBERS}] * 65}, (422, "invalid-parameter", "positive")),
        ({"positive": [{"vector": NUMBERS}], "negative": [{"vector": NUMBERS}],
          "negative_weight": 1}, (422, "invalid-parameter", None)),
        ({"vector": NUMBERS, "positive": [{"vector": [-0.5] * 24}]},
         (422, "invalid-parameter", None)),
        ({"positive": [{"vector": NUMBERS}], "negative_weight": -1},
         (422, "invalid-parameter", "negative_weight")),
        ({"image": "%%%"}, (400, "malformed-base64", "image")),
        ({"image": "aGVsbG8="}, (422, "not-an-image", "image")),
        ({"images": ["aGVsbG8=", "aGVsbG8="]}, (422, "several-queries", "image")),
    ],
)  # fmt: skip
def test_refusals(service: Running, query: dict[str, Any], expected: tuple[int, str, str]) -> None:
    headers = {"Content-Type": "application/json"}
    answer = service.client.post("/search", content=json.dumps(query), headers=headers)
    assert service.error(answer) == expected


def test_an_image_in_which_the_encoder_sees_nothing(service: Running) -> None:
    nothing = png(np.full((32, 32, 3), 127, np.uint8))
    service.runtime.encoder.encode(np.full((1, 32, 32, 3), 127, np.uint8))
    blind = lambda images: np.zeros((len(images), 24), np.float32)  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_encode", "_alone"):
            patch.setattr(service.runtime.embedder.batcher, name, blind)
        answer = service.client.post("/search", files={"image": nothing})
    assert service.error(answer) == (422, "no-embedding", "images[0]")


def test_no_refusal_shows_a_path_of_the_server(service: Running, collection_folder: Any) -> None:
    for body in ({"key": "nothing"}, {"vector": [1]}, {"filter": {"a": [1]}, "vector": NUMBERS}):
        text = service.client.post("/search", json=body).text
        assert str(collection_folder) not in text
