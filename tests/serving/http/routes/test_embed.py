"""POST /embed: each form of input and of output."""

import base64
import io
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from serving.http.routes.answers import in_dtype
from tests.serving.http.conftest import Running

Encode = Callable[[bytes], NDArray[np.float32]]


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def same(vectors: Any, expected: NDArray[np.float32]) -> None:
    np.testing.assert_allclose(np.asarray(vectors, np.float32), expected, atol=1e-5)


# Input


@pytest.mark.parametrize("media_type", ["image/jpeg", "image/jpg", "application/octet-stream"])
def test_a_raw_image(service: Running, four: list[bytes], encode: Encode, media_type: str) -> None:
    headers = {"Content-Type": media_type}
    answer = service.client.post("/embed", content=four[0], headers=headers)
    assert answer.status_code == 200
    assert answer.json()["errors"] == []
    assert answer.json()["dimensions"] == len(encode(four[0]))
    same(answer.json()["embeddings"], encode(four[0])[None])


def test_a_chunked_body(service: Running, four: list[bytes], encode: Encode) -> None:
    def chunks() -> Iterator[bytes]:
        yield four[0][:100]
        yield four[0][100:]

    headers = {"Content-Type": "image/png"}
    answer = service.client.post("/embed", content=chunks(), headers=headers)
    same(answer.json()["embeddings"], encode(four[0])[None])


@pytest.mark.parametrize("field", ["images", "image", "file"])
def test_a_form_of_several_images(
    service: Running, four: list[bytes], encode: Encode, field: str
) -> None:
    files = [(field, (f"{number}.jpg", one)) for number, one in enumerate(four)]
    answer = service.client.post("/embed", files=files)
    assert answer.status_code == 200
    same(answer.json()["embeddings"], np.stack([encode(one) for one in four]))


@pytest.mark.parametrize("prefix", ["", "data:image/jpeg;base64,", "data:;base64,"])
def test_json_with_base64(service: Running, four: list[bytes], encode: Encode, prefix: str) -> None:
    images = [prefix + b64(one) for one in four]
    answer = service.client.post("/embed", json={"images": images})
    same(answer.json()["embeddings"], np.stack([encode(one) for one in four]))


def test_json_with_one_image_and_line_breaks(
    service: Running, four: list[bytes], encode: Encode
) -> None:
    text = base64.encodebytes(four[0]).decode()
    assert "\n" in text
    answer = service.client.post("/embed", json={"image": text})
    same(answer.json()["embeddings"], encode(four[0])[None])


def test_the_order_of_many_is_kept_whatever_is_in_the_batch(
    service: Running, images: dict[str, bytes], encode: Encode
) -> None:
    contents = [*images.values(), *reversed(images.values())][:64]
    files = [("images", ("x", one)) for one in contents]
    answer = service.client.post("/embed", files=files)
    same(answer.json()["embeddings"], np.stack([encode(one) for one in contents]))


# Output


def test_the_answer_names_the_encoder(service: Running, four: list[bytes]) -> None:
    answer = service.client.post("/embed", files={"images": four[0]})
    assert answer.json()["encoder"] == service.runtime.encoder.digest
    assert answer.headers["lookalike-encoder"] == service.runtime.encoder.digest


def test_base64_embeddings(service: Running, four: list[bytes], encode: Encode) -> None:
    form = {"encoding_format": "base64"}
    answer = service.client.post("/embed", files=[("images", one) for one in four], data=form)
    texts = answer.json()["embeddings"]
    vectors = [np.frombuffer(base64.b64decode(text), "<f4") for text in texts]
    same(vectors, np.stack([encode(one) for one in four]))


@pytest.mark.parametrize("encoding", ["float", "base64", "npy"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "binary"])
def test_smaller_embeddings(
    service: Running, four: list[bytes], encode: Encode, dtype: str, encoding: str
) -> None:
    form = {"encoding_format": encoding, "dtype": dtype}
    answer = service.client.post("/embed", files=[("images", one) for one in four], data=form)
    kind = {"float16": np.float16, "int8": np.int8, "binary": np.uint8}.get(dtype, np.float32)
    if encoding == "npy":
        vectors = np.load(io.BytesIO(answer.content), allow_pickle=False)
    else:
        assert answer.json()["dtype"] == dtype
        rows = answer.json()["embeddings"]
        if encoding == "base64":
            rows = [np.frombuffer(base64.b64decode(row), kind) for row in rows]
        vectors = np.array(rows)
    if encoding != "float":
        assert vectors.dtype == kind
    full = np.stack([encode(one) for one in four])
    if dtype == "binary":
        np.testing.assert_array_equal(vectors, np.packbits(full > 0, axis=1))
        return
    wide = vectors.astype(np.float64)
    assert dtype != "int8" or list(np.abs(wide).max(axis=1)) == [127] * 4
    cosine = (wide * full).sum(axis=1) / np.linalg.norm(wide, axis=1)
    assert cosine.min() > (0.9999 if dtype == "int8" else 0.999999)


def test_an_embedding_of_zero_stays_zero_in_int8() -> None:
    assert not in_dtype(np.zeros(3, np.float32), "int8").any()


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({"Accept": "application/x-npy"}, ""),
        ({"Accept": "text/html, application/octet-stream;q=0.5"}, ""),
        ({"Accept": "application/json;q=0.2, application/x-npy"}, ""),
        ({"Accept": "application/json;q=0, */*;q=none, application/x-npy;q=0.1"}, ""),
        ({}, "?encoding_format=npy"),
        ({"Accept": "application/json"}, "?encoding_format=npy"),
    ],
)
def test_a_npy_file(
    service: Running, four: list[bytes], encode: Encode, headers: dict[str, str], query: str
) -> None:
    files = [("images", one) for one in four]
    answer = service.client.post(f"/embed{query}", files=files, headers=headers)
    assert answer.headers["content-type"] == "application/x-npy"
    matrix = np.load(io.BytesIO(answer.content), allow_pickle=False)
    assert matrix.dtype == np.float32
    same(matrix, np.stack([encode(one) for one in four]))


def test_accept_that_cannot_be_met(service: Running, four: list[bytes]) -> None:
    answer = service.client.post(
        "/embed", files={"images": four[0]}, headers={"Accept": "text/html"}
    )
    assert service.error(answer) == (406, "not-acceptable", "Accept")


def test_the_same_answers_under_load(
    service: Running, images: dict[str, bytes], encode: Encode
) -> None:
    """Batches of changing company do not change an answer."""
    import asyncio

    expected = {key: encode(content) for key, content in images.items()}

    async def ask(client: httpx.AsyncClient, key: str) -> None:
        answer = await client.post("/embed", files={"images": images[key]})
        same(answer.json()["embeddings"][0], expected[key])

    async def main() -> None:
        async with httpx.AsyncClient(base_url=service.url, timeout=30) as client:
            await asyncio.gather(*(ask(client, key) for key in list(images) * 3))

    asyncio.run(main())
