"""POST /search: by image, vector and key; k, min_score and filter; options."""

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from serving.client import Client
from tests.serving.http.conftest import Running

Encode = Callable[[bytes], NDArray[np.float32]]


def keys_of(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [one["key"] for one in answer.json()["neighbours"]]


@pytest.mark.parametrize("form", ["multipart", "raw", "json"])
def test_by_image(service: Running, images: dict[str, bytes], oracle: Any, form: str) -> None:
    key, content = list(images.items())[7]
    if form == "multipart":
        answer = service.client.post("/search", files={"image": content}, data={"k": "5"})
    elif form == "raw":
        headers = {"Content-Type": "image/jpeg"}
        answer = service.client.post("/search?k=5", content=content, headers=headers)
    else:
        image = base64.b64encode(content).decode()
        answer = service.client.post("/search", json={"image": image, "k": 5})
    expected = oracle(content)[:5]
    assert keys_of(answer) == [key for key, _ in expected]
    scores = [one["score"] for one in answer.json()["neighbours"]]
    np.testing.assert_allclose(scores, [score for _, score in expected], atol=1e-5)
    first = answer.json()["neighbours"][0]
    assert first["key"] == key
    assert first["label"] == key.partition("/")[0]
    assert first["metadata"] == {"number": 7}
    assert first["uri"].endswith(key)
    assert service.client.get(first["thumbnail"]).headers["content-type"] == "image/webp"
    assert answer.json()["encoder"] == service.runtime.encoder.digest


def test_by_vector(service: Running, images: dict[str, bytes], oracle: Any, encode: Encode) -> None:
    content = list(images.values())[3]
    vector = (encode(content) * 17).tolist()  # any length will do
    answer = service.client.post("/search", json={"vector": vector})
    assert keys_of(answer) == [key for key, _ in oracle(content)[:10]]
    text = service.client.post("/search", data={"vector": json.dumps(vector), "k": "10"})
    assert keys_of(text) == keys_of(answer)


@pytest.mark.parametrize("as_form", [True, False])
def test_by_key_leaves_the_item_itself_out(
    service: Running, images: dict[str, bytes], oracle: Any, as_form: bool
) -> None:
    key, content = list(images.items())[12]
    query = {"key": key, "k": 4}
    if as_form:  # as BentoML's client sends it: each value as JSON
        texts = {name: json.dumps(value) for name, value in query.items()}
        answer = service.client.post("/search", data=texts)
    else:
        answer = service.client.post("/search", json=query)
    assert keys_of(answer) == [other for other, _ in oracle(content) if other != key][:4]


def test_a_minimum_score(service: Running, images: dict[str, bytes], oracle: Any) -> None:
    content = list(images.values())[20]
    expected = oracle(content)
    least = (expected[4][1] + expected[5][1]) / 2
    query = {"image": base64.b64encode(content).decode(), "k": 40, "min_score": least}
    answer = service.client.post("/search", json=query)
    assert keys_of(answer) == [key for key, _ in expected[:5]]


@pytest.mark.parametrize("as_form", [True, False])
def test_a_filter(service: Running, images: dict[str, bytes], oracle: Any, as_form: bool) -> None:
    content = next(iter(images.values()))
    condition = {"label": "squares"}
    if as_form:
        form = {"k": "40", "filter": json.dumps(condition)}
        answer = service.client.post("/search", files={"image": content}, data=form)
    else:
        image = base64.b64encode(content).decode()
        body = {"image": image, "k": 40, "filter": condition}
        answer = service.client.post("/search", json=body)
    assert keys_of(answer) == [key for key, _ in oracle(content) if key.startswith("squares/")]


def test_a_filter_on_metadata(service: Running, encode: Encode, images: dict[str, bytes]) -> None:
    vector = encode(images["discs/00.jpg"]).tolist()
    body = {"vector": vector, "filter": {"number": 31}}
    answer = service.client.post("/search", json=body)
    assert keys_of(answer) == [list(images)[31]]


def test_everything_that_is_similar_enough(
    service: Running, images: dict[str, bytes], oracle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, content = list(images.items())[20]
    expected = oracle(content)
    least = (expected[24][1] + expected[25][1]) / 2
    query = {"image": base64.b64encode(content).decode(), "all": True, "min_score": least}
    assert keys_of(service.client.post("/search", json=query)) == [k for k, _ in expected[:25]]
    path = f"/items/{key}/similar?all=true&min_score={least}"
    assert len(keys_of(service.client.get(path))) == 24
    few = replace(service.runtime.settings, max_neighbours=24)
    monkeypatch.setattr(service.runtime, "settings", few)
    assert len(keys_of(service.client.get(path))) == 24
    refused = service.client.post("/search", json=query)
    assert service.error(refused) == (422, "too-many-neighbours", "all")
    assert "more than 24 items" in refused.json()["error"]["message"]


def test_a_search_can_be_exact(
    service: Running, image_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    requested, collection = [], service.runtime.collection.current
    search = collection.search

    def noted(*arguments: Any, **options: Any) -> Any:
        requested.append(options["exact"])
        return search(*arguments, **options)

    monkeypatch.setattr(collection, "search", noted)
    key = "discs/00.jpg"
    for exact in (False, True):
        form = {"exact": str(exact).lower()}
        keys_of(service.client.post("/search", files={"image": image_bytes}, data=form))
        keys_of(service.client.post("/search", json={"positive": [{"key": key}], "exact": exact}))
        keys_of(service.client.get(f"/items/{key}/similar", params=form))
        with Client(service.url) as client:
            client.search(key=key, exact=exact)
    assert requested == [False] * 4 + [True] * 4


def test_labels_are_suggested(service: Running, images: dict[str, bytes], oracle: Any) -> None:
    content = list(images.values())[5]
    body = {"image": base64.b64encode(content).decode(), "suggest_label": True}
    answer = service.client.post("/search", json=body).json()
    votes = [(key.partition("/")[0], np.exp(score / 0.1)) for key, score in oracle(content)[:20]]
    assert len(answer["neighbours"]) == 20
    suggestion = answer["suggestion"]
    assert (suggestion["labelled"], suggestion["unlabelled"]) == (20, 0)
    for one in suggestion["labels"]:
        own = [weight for label, weight in votes if label == one["label"]]
        assert one["neighbours"] == len(own)
        share = sum(own) / sum(weight for _, weight in votes)
        assert one["share"] == pytest.approx(share, abs=1e-4)
    assert {one["label"] for one in suggestion["labels"]} == {label for label, _ in votes}
    assert "suggestion" not in service.client.post("/search", json={"key": "discs/00.jpg"}).json()
