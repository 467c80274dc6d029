"""/v1: the routes as they are, and OpenAI's own client against them."""

import base64
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.serving.http.conftest import Running

Encode = Callable[[bytes], NDArray[np.float32]]


def data_uri(content: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"


def ask(service: Running, **body: Any) -> Any:
    return service.client.post("/v1/embeddings", json={"model": "lookalike", **body})


def test_one_image_and_several(service: Running, images: dict[str, bytes], encode: Encode) -> None:
    contents = [images["discs/00.jpg"], images["squares/01.png"]]
    one = ask(service, input=data_uri(contents[0])).json()
    assert (one["object"], one["model"]) == ("list", "lookalike")
    np.testing.assert_allclose(one["data"][0]["embedding"], encode(contents[0]), atol=1e-5)
    inputs = [data_uri(contents[0]), {"image_url": {"url": data_uri(contents[1])}}]
    both = ask(service, input=inputs).json()["data"]
    assert [entry["index"] for entry in both] == [0, 1]
    for entry, content in zip(both, contents, strict=True):
        np.testing.assert_allclose(entry["embedding"], encode(content), atol=1e-5)


def test_base64_and_dimensions(service: Running, image_bytes: bytes, encode: Encode) -> None:
    answer = ask(
        service, input=[data_uri(image_bytes)], encoding_format="base64", dimensions=10
    ).json()
    vector = np.frombuffer(base64.b64decode(answer["data"][0]["embedding"]), "<f4")
    kept = encode(image_bytes)[:10]
    np.testing.assert_allclose(vector, kept / np.linalg.norm(kept), atol=1e-5)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, (422, "missing-image", "input")),
        ({"input": []}, (422, "missing-image", "input")),
        ({"input": [1, 2]}, (422, "invalid-parameter", "input")),
        ({"input": "https://example.org/cat.jpg"}, (422, "url-not-allowed", "input")),
        ({"input": ["a red dress, please"]}, (400, "malformed-base64", "input[0]")),
        ({"input": "no image"}, (400, "malformed-base64", "input")),
        ({"input": ["aGVsbG8="]}, (422, "not-an-image", "input[0]")),
        ({"input": "aGVsbG8=", "dimensions": 25}, (422, "invalid-parameter", "dimensions")),
        ({"input": "aGVsbG8=", "dimension": 2}, (422, "unknown-parameter", "dimension")),
        ({"input": "aGVsbG8=", "encoding_format": "npy"}, (422, "invalid-parameter", None)),
        ({"input": "aGVsbG8=", "model": "other"}, (404, "unknown-model", "model")),
        ({"input": ["aGVsbG8="] * 65}, (413, "too-many-images", "images")),
    ],
)
def test_refusals(
    service: Running, body: dict[str, Any], expected: tuple[int, str, str | None]
) -> None:
    status, kind, param = service.error(ask(service, **body))
    assert (status, kind) == expected[:2]
    assert expected[2] is None or param == expected[2]


def test_models(service: Running) -> None:
    (model,) = service.client.get("/v1/models").json()["data"]
    assert model["encoder"] == service.runtime.encoder.digest
    assert service.client.get("/v1/models/lookalike").json() == model
    assert service.error(service.client.get("/v1/models/none"))[1] == "unknown-model"


def test_openai_client(service: Running, images: dict[str, bytes], encode: Encode) -> None:
    openai = pytest.importorskip("openai", reason="the package openai is not installed")
    contents = [images["discs/00.jpg"], images["squares/01.png"]]
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="any", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["lookalike"]
        answer = client.embeddings.create(
            model="lookalike", input=[data_uri(content) for content in contents]
        )
        expected = np.stack([encode(content) for content in contents])
        vectors = [entry.embedding for entry in answer.data]
        np.testing.assert_allclose(vectors, expected, atol=1e-5)
        short = client.embeddings.create(
            model="lookalike",
            input=data_uri(contents[0]),
            dimensions=8,
            encoding_format="float",
        )
        assert len(short.data[0].embedding) == 8
        with pytest.raises(openai.NotFoundError, match="no model 'other'"):
            client.embeddings.create(model="other", input=data_uri(contents[0]))
