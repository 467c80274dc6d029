"""POST /search with several examples, positive and negative."""

import base64
import json

import numpy as np
import pytest

from tests.serving.http.conftest import Running
from tests.serving.http.routes.test_search import Encode, keys_of


def test_several_examples(service: Running, images: dict[str, bytes], encode: Encode) -> None:
    keys = list(images)
    matrix = np.stack([encode(content) for content in images.values()])
    query = matrix[[0, 15, 22]].mean(0) - 0.7 * matrix[[31, 9]].mean(0)
    scores = matrix @ (query / np.linalg.norm(query))
    expected = [keys[row] for row in np.argsort(-scores) if row not in (15, 31)][:6]
    image = {"image": base64.b64encode(images[keys[0]]).decode()}
    vector = {"vector": (3 * matrix[22]).tolist()}
    body = {
        "positive": [image, {"key": keys[15]}, vector],
        "negative": [{"key": keys[31]}, {"vector": matrix[9].tolist()}],
        "negative_weight": 0.7,
        "k": 6,
    }
    answer = service.client.post("/search", json=body)
    assert keys_of(answer) == expected
    assert answer.json()["query"] == {"positive": 3, "negative": 2}
    assert "search" in answer.headers["server-timing"]
    top = answer.json()["neighbours"][0]["score"]
    assert top == pytest.approx(scores[keys.index(expected[0])], abs=1e-5)
    # the same as a form: files, a key and a vector beside the lists are positive
    form = {
        "key": keys[15],
        "vector": json.dumps(vector["vector"]),
        "negative": json.dumps(body["negative"]),
        "negative_weight": "0.7",
        "k": "6",
    }
    answer = service.client.post("/search", files={"image": images[keys[0]]}, data=form)
    assert keys_of(answer) == expected
    two = [("image", images[keys[0]]), ("image", images[keys[1]])]
    both = service.client.post("/search", files=two, data={"positive": "[]", "k": "3"})
    query = matrix[:2].mean(0)
    assert keys_of(both) == [keys[row] for row in np.argsort(-(matrix @ query))[:3]]


def test_examples_are_described(service: Running) -> None:
    operation = service.client.get("/docs.json").json()["paths"]["/search"]["post"]
    fields = operation["requestBody"]["content"]["application/json"]["schema"]["properties"]
    for name in ("positive", "negative"):
        kinds = [set(one["properties"]) for one in fields[name]["items"]["oneOf"]]
        assert kinds == [{"key"}, {"vector"}, {"image"}]
    named = {parameter["name"] for parameter in operation["parameters"]}
    assert {"all", "suggest_label", "negative_weight"} <= named
