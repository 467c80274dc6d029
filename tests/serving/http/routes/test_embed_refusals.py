"""POST /embed: refusals of single images and of whole requests."""

import gzip
import json
from typing import Any

import pytest

from tests.serving.http.conftest import Running
from tests.serving.http.routes.test_embed import Encode, b64, same

FORM = "application/x-www-form-urlencoded"
NOT_AN_IMAGE = b"this is a text, not an image"


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
