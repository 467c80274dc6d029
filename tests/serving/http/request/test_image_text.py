"""Images as text, as clients write it; and JSON whose names are given twice."""

import base64
from collections.abc import Callable

import pytest

from tests.serving.http.conftest import Running

WAYS: dict[str, Callable[[str], str]] = {
    "plain": lambda text: text,
    "capitals": lambda text: f"DATA:image/png;BASE64,{text}",
    "mixed": lambda text: f"Data:image/PNG;charset=x;Base64,{text}",
    "escaped": lambda text: (
        "data:image/png;base64," + text.replace("+", "%2B").replace("/", "%2f").replace("=", "%3D")
    ),
    "escaped alone": lambda text: text.replace("+", "%2b"),
    "unpadded": lambda text: text.rstrip("="),
    "for URLs": lambda text: text.replace("+", "-").replace("/", "_").rstrip("="),
    "lines": lambda text: "\n".join(text[at : at + 76] for at in range(0, len(text), 76)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("spare", [0, 1, 2])
def test_base64_as_clients_write_it(
    service: Running, image_bytes: bytes, way: str, spare: int
) -> None:
    text = base64.b64encode(image_bytes + b"\xff\xfe" * 2 + b"\0" * spare).decode()
    answer = service.client.post("/embed", json={"images": [WAYS[way](text)]})
    assert answer.status_code == 200, answer.text
    tensor = {"name": "encoded", "datatype": "BYTES", "shape": [1], "data": [WAYS[way](text)]}
    infer = "/v2/models/lookalike/infer"
    answer = service.client.post(infer, json={"inputs": [tensor]})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("text", ["a", "aGVsbG8=x", "data:image/png,xyz", "%41%42", "aGVsbG8%"])
def test_what_is_not_base64(service: Running, text: str) -> None:
    answer = service.client.post("/embed", json={"images": [text]})
    assert service.error(answer)[:2] == (400, "malformed-base64")


@pytest.mark.parametrize(
    "url", ["HTTP://a.example/1.jpg", "s3://bucket/1.jpg", "gs://b/1", "FILE:/etc/passwd"]
)
def test_a_url_is_called_one(service: Running, url: str) -> None:
    answer = service.client.post("/embed", json={"images": [url]})
    assert service.error(answer)[:2] == (422, "url-not-allowed")


@pytest.mark.parametrize(
    "body", ['{"key": "discs/00.jpg", "k": 1, "k": 2}', '{"key": "x", "filter": {"a": 1, "a": 2}}']
)
def test_a_name_given_twice_is_refused(service: Running, body: str) -> None:
    answer = service.client.post(
        "/search", content=body, headers={"Content-Type": "application/json"}
    )
    assert service.error(answer)[:2] == (400, "malformed-json")
    assert "is given twice" in answer.json()["error"]["message"]


@pytest.mark.parametrize("key", [".", ".."])
def test_a_key_that_no_path_leads_to_is_refused(
    fresh: Running, image_bytes: bytes, key: str
) -> None:
    answer = fresh.client.post("/items", files={"image": image_bytes}, data={"key": key})
    assert fresh.error(answer) == (422, "invalid-parameter", "key")
