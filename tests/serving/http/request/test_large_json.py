"""Lists and texts of a client are counted before they become objects."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.http.request.errors import HttpError, invalid
from serving.http.request.json_bounds import JsonBounds
from tests.serving.http.conftest import Running

MANY = 6_000_000
MAX_GROWTH = 50  # MiB
JSON = {"Content-Type": "application/json"}
INFER = "/v2/models/lookalike/infer"
ZEROS = b"0," * MANY + b"0"


def shaped(data: bytes, name: str = "images", datatype: str = "UINT8") -> bytes:
    head = f'{{"inputs":[{{"name":"{name}","datatype":"{datatype}","shape":[1],"data":['
    return head.encode() + data + b"]}]}"


FLOODS: dict[str, tuple[str, bytes, str]] = {
    "embed": ("/embed", b'{"images":[' + ZEROS + b"]}", "too-many-images"),
    "embed, another name": ("/embed", b'{"x":[' + ZEROS + b"]}", "too-many-values"),
    "embed, in an object": ("/embed", b'{"images":{"a":[' + ZEROS + b"]}}", "too-many-values"),
    "embed, lists": ("/embed", b'{"images":[' + b"[]," * MANY + b"[]]}", "too-many-images"),
    "search": ("/search", b'{"positive":[' + ZEROS + b"]}", "invalid-parameter"),
    "search, vector": ("/search", b'{"vector":[' + ZEROS + b"]}", "too-many-values"),
    "search, filter": ("/search", b'{"filter":{"a":{"$in":[' + ZEROS + b"]}}}", "too-many-values"),
    "items": ("/items", b'{"items":[' + ZEROS + b"]}", "too-many-items"),
    "items, vector": ("/items", b'{"items":[{"vector":[' + ZEROS + b"]}]}", "too-many-values"),
    "items, metadata": ("/items", b'{"metadata":{"a":[' + ZEROS + b"]}}", "too-many-values"),
    "openai": ("/v1/embeddings", b'{"input":[' + ZEROS + b"]}", "too-many-images"),
    "infer, inputs": (INFER, b'{"inputs":[' + ZEROS + b"]}", "invalid-parameter"),
    "infer, outputs": (INFER, b'{"outputs":[' + ZEROS + b"]}", "invalid-parameter"),
    "infer, data": (INFER, shaped(ZEROS), "too-many-values"),
    "infer, encoded": (INFER, shaped(ZEROS, "encoded", "BYTES"), "too-many-values"),
    "infer, rows": (INFER, shaped(b"[0,0,0]," * (MANY // 4) + b"[0]"), "too-many-values"),
    "similar": ("/items/a/similar", b'{"filter":{"a":[' + ZEROS + b"]}}", "too-many-values"),
    "objects": ("/search", b'{"positive":[' + b'{"key":"a"},' * 500_000 + b"{}]}",
                "invalid-parameter"),
    "quotes": ("/embed", b'{"images":["' + b'\\"' * MANY + b'"]}', "too-many-values"),
    "escapes": ("/embed", b'{"images":["' + b"\\u0041" * MANY + b'"]}', "too-many-values"),
}  # fmt: skip


def peak() -> int:
    """Most memory of this process since `clear_peak`, in MiB."""
    match = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match[1]) // 1024


def clear_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_is_refused_by_its_name_in_little_memory(service: Running, flood: str) -> None:
    path, content, expected = FLOODS[flood]
    method = "GET" if path.endswith("similar") else "POST"
    clear_peak()
    before = peak()
    answer = service.client.request(method, path, content=content, headers=JSON)
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers["x-error-type"] == expected
    assert len(answer.content) < 500
    assert peak() - before < MAX_GROWTH + len(content) // 2**20


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/search", {"positive": [{"key": "a"}] * 500}, "positive"),
        ("/search", {"positive": [{"key": "a"}] * 40, "negative": [{"key": "b"}] * 40}, "positive"),
        ("/search", {"vector": [0.5] * 100_000}, "vector"),
        ("/search", {"key": "k" * 30_000_000}, "key"),
        ("/search", {"positive": [{"key": "k" * 30_000_000}]}, "positive[0].key"),
        ("/search", {"k" * 30_000_000: 1}, None),
        ("/search", {"filter": {"label": {"$in": ["k" * 30_000_000]}}}, "filter"),
        ("/items", {"metadata": {"k" * 30_000_000: 1}}, "metadata"),
        ("/items", {"items": [{"key": "k" * 30_000_000, "vector": [1.0]}]}, "items[0].key"),
        ("/items", {"key": "x", "label": "k" * 30_000_000, "vector": [1.0]}, "label"),
        ("/items", {"key": "x", "uri": "http://" + "k" * 30_000_000, "vector": [1.0]}, "uri"),
        ("/embed", {"encoding_format": "k" * 30_000_000, "images": []}, "encoding_format"),
        ("/v1/embeddings", {"model": "k" * 30_000_000, "input": "x"}, "model"),
        ("/v1/embeddings", {"user": "k" * 30_000_000, "input": "x"}, "user"),
    ],
)
def test_what_is_too_long_is_named(
    service: Running, path: str, body: dict[str, object], param: str | None
) -> None:
    answer = service.client.post(path, json=body)
    status, _, named = service.error(answer)
    assert status == 422
    assert named == param or param is None
    assert len(answer.content) < 500


def test_a_name_of_megabytes_is_not_repeated(service: Running) -> None:
    answer = service.client.post("/embed", json={"n" * 30_000_000: 1, "images": []})
    assert answer.headers["x-error-type"] == "unknown-parameter"
    assert len(answer.content) < 500


def test_urlencoded_forms_are_small(service: Running) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    for content in (b"key=" + b"%41" * 1_000_000, b"key=" + b"a" * 300_000):
        answer = service.client.post("/search", content=content, headers=headers)
        assert answer.status_code in (413, 422), answer.text
        assert len(answer.content) < 500


def test_a_field_of_a_form_has_a_short_head(service: Running) -> None:
    for line in (b"X: " + b"a" * 2_000_000, b"\r\n".join([b"X: a"] * 100_000)):
        content = (
            b'--x\r\nContent-Disposition: form-data; name="k"\r\n' + line + b"\r\n\r\n3\r\n--x--"
        )
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        answer = service.client.post("/search", content=content, headers=headers)
        assert service.error(answer)[:2] == (400, "malformed-multipart")


def test_blanks_in_base64_cost_nothing(service: Running) -> None:
    clear_peak()
    before = peak()
    answer = service.client.post("/embed", json={"images": ["a " * MANY]})
    assert service.error(answer)[:2] in ((422, "not-an-image"), (400, "malformed-base64"))
    assert peak() - before < 2 * MAX_GROWTH


def elements(most: int) -> JsonBounds:
    return JsonBounds(values=50, lists={"a": (most, lambda count: invalid("a", str(count)))})


def refusal(check: Callable[[], None]) -> str | None:
    try:
        check()
    except HttpError as refused:
        return refused.message
    return None


@pytest.mark.parametrize(
    ("value", "count"),
    [
        ({"a": [1, 2, 3]}, 3),
        ({"a": ["x,y", 'q",[', "\\", '\\"', "]"]}, 5),
        ({"a": [[1, 2, 3, 4], {"a": [1, 2, 3], "b": 2}]}, 2),
        ({"b": {"a": [1, 2, 3, 4]}, "a": []}, 1),
        ({"a": {"b": 1, "c": 2, "d": 3}}, None),
        ({"b": [1, 2, 3]}, None),
        ({"b": [1], "a": [1, 2], "c": 1}, 2),
        ({"\u2200a": "\u2200", "a": ["é", "☃"]}, 2),
    ],
)
def test_elements_are_counted_exactly(value: object, count: int | None) -> None:
    content = json.dumps(value, ensure_ascii=False).encode()
    assert refusal(lambda: elements(count or 1).check(content)) is None
    if count is not None:
        assert refusal(lambda: elements(count - 1).check(content)) == str(count)


def test_all_values_are_counted() -> None:
    content = json.dumps({"b": [[1] * 20, {"c": [1] * 20}]}).encode()
    values = 1 + 2 + 20 + 1 + 20
    assert refusal(lambda: JsonBounds(values=values).check(content)) is None
    assert refusal(lambda: JsonBounds(values=values - 1).check(content)) is not None


@pytest.mark.parametrize("content", [b"[" * 500_000, b"]" * 500_000, b'{"a":[' + b"{" * 300_000])
def test_brackets_without_end(service: Running, content: bytes) -> None:
    answer = service.client.post("/embed", content=content, headers=JSON)
    assert service.error(answer)[:2] == (400, "malformed-json")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32-le"])
def test_json_is_utf8(service: Running, encoding: str) -> None:
    answer = service.client.post("/embed", content='{"images": []}'.encode(encoding), headers=JSON)
    assert service.error(answer)[:2] == (400, "malformed-json")
