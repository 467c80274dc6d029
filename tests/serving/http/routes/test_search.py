"""POST /search: by image, vector and key; k, min_score and filter; refusals."""

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from serving.client import Client
from tests.serving.http.conftest import Running, png

Encode = Callable[[bytes], NDArray[np.float32]]


@pytest.fixture(scope="module")
def oracle(images: dict[str, bytes], encode: Encode) -> Callable[[bytes], list[tuple[str, float]]]:
    """All keys with their cosine to an image, the most similar first, by plain NumPy."""
    keys = list(images)
    matrix = np.stack([encode(content) for content in images.values()])

    def rank(content: bytes) -> list[tuple[str, float]]:
        scores = matrix @ encode(content)
        return [(keys[row], float(scores[row])) for row in np.argsort(-scores, kind="stable")]

    return rank


def found(answer: Any) -> list[str]:
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
    assert found(answer) == [key for key, _ in expected]
    scores = [one["score"] for one in answer.json()["neighbours"]]
    np.testing.assert_allclose(scores, [score for _, score in expected], atol=1e-5)
    first = answer.json()["neighbours"][0]
    assert first["key"] == key
    assert first["label"] == key.partition("/")[0]
    assert first["metadata"] == {"number": 7}
    assert first["uri"].endswith(key)
    assert service.client.get(first["thumbnail"]).headers["content-type"] == "image/webp"
    assert answer.json()["encoder"] == service.engine.encoder.digest


def test_by_vector(service: Running, images: dict[str, bytes], oracle: Any, encode: Encode) -> None:
    content = list(images.values())[3]
    vector = (encode(content) * 17).tolist()  # any length will do
    answer = service.client.post("/search", json={"vector": vector})
    assert found(answer) == [key for key, _ in oracle(content)[:10]]
    text = service.client.post("/search", data={"vector": json.dumps(vector), "k": "10"})
    assert found(text) == found(answer)


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
    assert found(answer) == [other for other, _ in oracle(content) if other != key][:4]


def test_a_minimum_score(service: Running, images: dict[str, bytes], oracle: Any) -> None:
    content = list(images.values())[20]
    expected = oracle(content)
    least = (expected[4][1] + expected[5][1]) / 2
    query = {"image": base64.b64encode(content).decode(), "k": 40, "min_score": least}
    answer = service.client.post("/search", json=query)
    assert found(answer) == [key for key, _ in expected[:5]]


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
    assert found(answer) == [key for key, _ in oracle(content) if key.startswith("squares/")]


def test_a_filter_on_metadata(service: Running, encode: Encode, images: dict[str, bytes]) -> None:
    vector = encode(images["discs/00.jpg"]).tolist()
    body = {"vector": vector, "filter": {"number": 31}}
    answer = service.client.post("/search", json=body)
    assert found(answer) == [list(images)[31]]


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
    assert found(answer) == expected
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
    assert found(answer) == expected
    two = [("image", images[keys[0]]), ("image", images[keys[1]])]
    both = service.client.post("/search", files=two, data={"positive": "[]", "k": "3"})
    query = matrix[:2].mean(0)
    assert found(both) == [keys[row] for row in np.argsort(-(matrix @ query))[:3]]


def test_examples_are_described(service: Running) -> None:
    operation = service.client.get("/docs.json").json()["paths"]["/search"]["post"]
    fields = operation["requestBody"]["content"]["application/json"]["schema"]["properties"]
    for name in ("positive", "negative"):
        kinds = [set(one["properties"]) for one in fields[name]["items"]["oneOf"]]
        assert kinds == [{"key"}, {"vector"}, {"image"}]
    named = {parameter["name"] for parameter in operation["parameters"]}
    assert {"all", "suggest_label", "negative_weight"} <= named


def test_everything_that_is_similar_enough(
    service: Running, images: dict[str, bytes], oracle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, content = list(images.items())[20]
    expected = oracle(content)
    least = (expected[24][1] + expected[25][1]) / 2
    query = {"image": base64.b64encode(content).decode(), "all": True, "min_score": least}
    assert found(service.client.post("/search", json=query)) == [k for k, _ in expected[:25]]
    path = f"/items/{key}/similar?all=true&min_score={least}"
    assert len(found(service.client.get(path))) == 24
    few = replace(service.engine.settings, max_neighbours=24)
    monkeypatch.setitem(service.engine.__dict__, "settings", few)
    assert len(found(service.client.get(path))) == 24
    refused = service.client.post("/search", json=query)
    assert service.error(refused) == (422, "too-many-neighbours", "all")
    assert "more than 24 items" in refused.json()["error"]["message"]


def test_a_search_can_be_exact(
    service: Running, image_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, collection = [], service.engine.collection
    search = collection.search

    def noted(*arguments: Any, **options: Any) -> Any:
        asked.append(options["exact"])
        return search(*arguments, **options)

    monkeypatch.setattr(collection, "search", noted)
    key = "discs/00.jpg"
    for exact in (False, True):
        form = {"exact": str(exact).lower()}
        found(service.client.post("/search", files={"image": image_bytes}, data=form))
        found(service.client.post("/search", json={"positive": [{"key": key}], "exact": exact}))
        found(service.client.get(f"/items/{key}/similar", params=form))
        with Client(service.url) as client:
            client.search(key=key, exact=exact)
    assert asked == [False] * 4 + [True] * 4


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


def test_an_image_in_which_the_encoder_sees_nothing(service: Running) -> None:
    nothing = png(np.full((32, 32, 3), 127, np.uint8))
    service.engine.encoder.encode(np.full((1, 32, 32, 3), 127, np.uint8))
    blind = lambda images: np.zeros((len(images), 24), np.float32)  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_encode", "_alone"):
            patch.setattr(service.engine.batcher, name, blind)
        answer = service.client.post("/search", files={"image": nothing})
    assert service.error(answer) == (422, "no-embedding", "images[0]")


def test_no_refusal_shows_a_path_of_the_server(service: Running, collection_folder: Any) -> None:
    for body in ({"key": "nothing"}, {"vector": [1]}, {"filter": {"a": [1]}, "vector": NUMBERS}):
        text = service.client.post("/search", json=body).text
        assert str(collection_folder) not in text
