"""Images by URL in the requests of the service."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from serving.http.policy.settings import Settings
from tests.serving.http.conftest import Running, started
from tests.serving.http.request.elsewhere import Elsewhere, Names, fetcher
from tests.serving.http.routes.test_embed import Encode


@pytest.fixture(scope="module")
def running(tiny_encoder: Path, collection_folder: Path) -> Iterator[Running]:
    settings = Settings(
        encoder=tiny_encoder, collection=collection_folder, url_prefixes="https://images.test/"
    )
    with started(settings) as service:
        yield service


@pytest.fixture
def open_service(running: Running, elsewhere: Elsewhere) -> Running:
    """The service with a fetcher that may ask the server of this test."""
    assert running.runtime.fetcher is not None
    running.runtime.fetcher.close()
    running.runtime.fetcher = fetcher(elsewhere, Names())
    return running


def test_every_form_of_input_takes_urls(
    open_service: Running, elsewhere: Elsewhere, encode: Encode
) -> None:
    client, url, expected = open_service.client, elsewhere.base + "good", encode(elsewhere.image)

    def near(vector: object) -> None:
        np.testing.assert_allclose(np.asarray(vector, np.float32), expected, atol=1e-5)

    answer = client.post("/embed", json={"images": [url]})
    near(answer.json()["embeddings"][0])
    assert answer.headers["server-timing"].startswith("fetch;dur=")
    near(client.post("/embed", data={"images": url}).json()["embeddings"][0])
    openai = client.post("/v1/embeddings", json={"input": [{"image_url": {"url": url}}, url]})
    for entry in openai.json()["data"]:
        near(entry["embedding"])
    text = base64.b64encode(elsewhere.image).decode()
    tensor = {"name": "encoded", "datatype": "BYTES", "shape": [2], "data": [url, text]}
    kserve = client.post("/v2/models/lookalike/infer", json={"inputs": [tensor]})
    near(kserve.json()["outputs"][0]["data"][: len(expected)])
    answer = client.post("/search", json={"image": url, "k": 1})
    assert answer.json()["query"]["width"] > 0
    assert len(answer.json()["neighbours"]) == 1


def test_an_element_of_a_binary_tensor_may_be_a_url(
    open_service: Running, elsewhere: Elsewhere, encode: Encode
) -> None:
    url = (elsewhere.base + "good").encode()
    data = len(url).to_bytes(4, "little") + url
    parameters = {"binary_data_size": len(data)}
    tensor = {"name": "encoded", "datatype": "BYTES", "shape": [1], "parameters": parameters}
    head = json.dumps({"inputs": [tensor]}).encode()
    answer = open_service.client.post(
        "/v2/models/lookalike/infer",
        content=head + data,
        headers={"Inference-Header-Content-Length": str(len(head))},
    )
    vector = answer.json()["outputs"][0]["data"]
    np.testing.assert_allclose(vector, encode(elsewhere.image), atol=1e-5)


def test_an_item_is_added_from_a_url(open_service: Running, elsewhere: Elsewhere) -> None:
    items = [{"key": "from/url", "image": elsewhere.base + "good"}]
    answer = open_service.client.post("/items", json={"items": items})
    assert answer.status_code == 201
    thumbnail = open_service.client.get("/items/from%2Furl/thumbnail")
    assert thumbnail.content[8:12] == b"WEBP"
    bad = [{"key": "a", "image": elsewhere.base + "good"}, {"key": "b", "image": elsewhere.base}]
    assert open_service.error(open_service.client.post("/items", json={"items": bad}))[:2] == (
        422,
        "url-failed",
    )
    assert open_service.client.get("/items/a").status_code == 404


def test_what_does_not_come_is_refused_by_itself(
    open_service: Running, elsewhere: Elsewhere
) -> None:
    names = ["good", "nowhere", "text", "empty", "metadata"]
    urls = [elsewhere.base + name for name in names]
    answer = open_service.client.post("/embed", json={"images": urls})
    assert answer.status_code == 200
    assert [vector is not None for vector in answer.json()["embeddings"]] == [True] + [False] * 4
    assert [(one["index"], one["type"]) for one in answer.json()["errors"]] == [
        (1, "url-failed"),
        (2, "not-an-image"),
        (3, "empty"),
        (4, "url-not-allowed"),
    ]
    assert open_service.runtime.embedder.batcher.admitted == 0
    while open_service.runtime.bytes_in_flight.held:  # given back a moment after the answer
        open_service.client.get("/livez")


def test_without_prefixes_nothing_is_fetched(service: Running) -> None:
    assert service.runtime.fetcher is None
    url = "http://127.0.0.1:1/x.png"
    for body, path in (
        ({"images": url}, "/embed"),
        ({"input": url}, "/v1/embeddings"),
        (
            {"inputs": [{"name": "encoded", "datatype": "BYTES", "shape": [1], "data": [url]}]},
            "/v2/models/lookalike/infer",
        ),
    ):
        answer = service.client.post(path, json=body)
        assert answer.status_code == 422
        assert answer.headers["x-error-type"] == "url-not-allowed"
