"""POST /embed: each form of input, each form of output, refusals."""

import base64
import gzip
import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from serving.http.routes.answers import in_dtype
from tests.serving.http.conftest import Running

Encode = Callable[[bytes], NDArray[np.float32]]
FORM = "application/x-www-form-urlencoded"
NOT_AN_IMAGE = b"this is a text, not a picture"


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def same(found: Any, expected: NDArray[np.float32]) -> None:
    np.testing.assert_allclose(np.asarray(found, np.float32), expected, atol=1e-5)


@pytest.fixture(scope="module")
def four(images: dict[str, bytes]) -> list[bytes]:
    return list(images.values())[::11]


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
    assert answer.json()["encoder"] == service.engine.encoder.digest
    assert answer.headers["lookalike-encoder"] == service.engine.encoder.digest


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


# Refusals of single images


def test_a_bad_image_does_not_shift_the_others(
    service: Running, four: list[bytes], encode: Encode
) -> None:
    truncated = four[0][: len(four[0]) // 2]
    contents = [four[0], NOT_AN_IMAGE, four[1], b"", truncated, four[2]]
    files = [("images", (f"{number}", one)) for number, one in enumerate(contents)]
    answer = service.client.post("/embed", files=files)
    assert answer.status_code == 200
    embeddings = answer.json()["embeddings"]
    assert [vector is None for vector in embeddings] == [False, True, False, True, True, False]
    for slot in (0, 2, 5):
        same(embeddings[slot], encode(contents[slot]))
    errors = answer.json()["errors"]
    assert [(one["index"], one["type"], one["param"]) for one in errors] == [
        (1, "not-an-image", "images[1]"),
        (3, "empty", "images[3]"),
        (4, "truncated", "images[4]"),
    ]


def test_a_batch_without_one_good_image_is_refused(service: Running) -> None:
    files = [("images", ("a", NOT_AN_IMAGE)), ("images", ("b", b""))]
    answer = service.client.post("/embed", files=files)
    assert service.error(answer) == (422, "not-an-image", "images[0]")
    assert [one["index"] for one in answer.json()["errors"]] == [0, 1]


def test_a_npy_file_is_all_or_nothing(service: Running, four: list[bytes]) -> None:
    files = [("images", ("a", four[0])), ("images", ("b", NOT_AN_IMAGE))]
    answer = service.client.post("/embed?encoding_format=npy", files=files)
    assert service.error(answer) == (422, "not-an-image", "images[1]")
    assert [one["index"] for one in answer.json()["errors"]] == [1]


@pytest.mark.parametrize(
    ("value", "error_type", "status"),
    [
        ("not base64!", "malformed-base64", 400),
        ("data:image/png,abc", "malformed-base64", 400),
        ("https://example.org/cat.jpg", "url-not-allowed", 422),
        ("file:///etc/passwd", "url-not-allowed", 422),
        (7, "invalid-parameter", 422),
        (None, "invalid-parameter", 422),
        (b64(NOT_AN_IMAGE), "not-an-image", 422),
        ("", "empty", 422),
    ],
)
def test_one_bad_entry_of_a_json_list(
    service: Running, four: list[bytes], value: object, error_type: str, status: int
) -> None:
    both = service.client.post("/embed", json={"images": [value, b64(four[0])]})
    assert both.status_code == 200
    assert [one["type"] for one in both.json()["errors"]] == [error_type]
    alone = service.client.post("/embed", json={"images": [value]})
    assert service.error(alone) == (status, error_type, "images[0]")
    assert "errors" not in alone.json()


# Refusals of the request


@pytest.mark.parametrize(
    ("content", "media_type", "expected"),
    [
        (b"{", "application/json", (400, "malformed-json", None)),
        (b"[" * 100_000, "application/json", (400, "malformed-json", None)),
        (b'{"images": NaN}', "application/json", (400, "malformed-json", None)),
        (b'{"images": ' + b"1" * 5000 + b"}", "application/json", (400, "malformed-json", None)),
        (b"\xff\xfe", "application/json", (400, "malformed-json", None)),
        (b"[]", "application/json", (400, "malformed-json", None)),
        (b'"x"', "application/json", (400, "malformed-json", None)),
        (b"{}", "application/json", (422, "missing-image", "images")),
        (b'{"images": []}', "application/json", (422, "missing-image", "images")),
        (b"", "", (422, "missing-image", "images")),
        (b"", "image/png", (422, "empty", "body")),
        (b"abc", "text/plain", (415, "unsupported-media-type", "Content-Type")),
        (b"abc", "", (415, "unsupported-media-type", "Content-Type")),
        (b"\x89PNG\0", FORM, (415, "unsupported-media-type", "Content-Type")),
        (b"abc", "application/vnd.bentoml+pickle", (415, "unsupported-media-type", "Content-Type")),
        (b"--x\r\n", "multipart/form-data", (400, "malformed-multipart", None)),
        (b"garbage", "multipart/form-data; boundary=x", (400, "malformed-multipart", None)),
        (b"--x\r\n\r\nabc", "multipart/form-data; boundary=x", (400, "malformed-multipart", None)),
        (
            b'--x\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\nabc',
            "multipart/form-data; boundary=x",
            (400, "malformed-multipart", None),
        ),
        (b"", "multipart/form-data; boundary=x", (400, "malformed-multipart", None)),
    ],
)  # fmt: skip
def test_malformed_requests(
    service: Running, content: bytes, media_type: str, expected: tuple[int, str, str | None]
) -> None:
    headers = {"Content-Type": media_type} if media_type else {}
    answer = service.client.post("/embed", content=content, headers=headers)
    assert service.error(answer) == expected


def test_a_compressed_body_is_not_unfolded(service: Running, four: list[bytes]) -> None:
    headers = {"Content-Type": "image/jpeg", "Content-Encoding": "gzip"}
    answer = service.client.post("/embed", content=gzip.compress(four[0]), headers=headers)
    assert service.error(answer) == (415, "unsupported-media-type", "Content-Encoding")


def test_a_message_is_short_however_large_the_value(service: Running) -> None:
    large = {"encoding_format": {"a" * 10_000: [list(range(10_000))] * 50}, "images": []}
    answer = service.client.post("/embed", json=large)
    assert service.error(answer) == (422, "invalid-parameter", "encoding_format")
    assert len(answer.text) < 500


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"encoding_format": "xml"}, (422, "invalid-parameter", "encoding_format")),
        ({"encoding_format": 3}, (422, "invalid-parameter", "encoding_format")),
        ({"dtype": "float64"}, (422, "invalid-parameter", "dtype")),
        ({"encoding_formt": "float"}, (422, "unknown-parameter", "encoding_formt")),
        ({"\ud800": 1}, (422, "unknown-parameter", "?")),
    ],
)
def test_wrong_fields(
    service: Running, four: list[bytes], fields: dict[str, Any], expected: tuple[int, str, str]
) -> None:
    content = json.dumps({"images": [b64(four[0])], **fields})
    headers = {"Content-Type": "application/json"}
    answer = service.client.post("/embed", content=content, headers=headers)
    assert service.error(answer) == expected


def test_an_unknown_field_is_told_the_nearest(service: Running, four: list[bytes]) -> None:
    answer = service.client.post("/embed", json={"images": [b64(four[0])], "encoding_formt": "x"})
    assert "did you mean encoding_format?" in answer.json()["error"]["message"]


def test_a_field_given_twice(service: Running, four: list[bytes]) -> None:
    answer = service.client.post(
        "/embed?encoding_format=float", files={"images": four[0]}, data={"encoding_format": "npy"}
    )
    assert service.error(answer) == (422, "invalid-parameter", "encoding_format")


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
