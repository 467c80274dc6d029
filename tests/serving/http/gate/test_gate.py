"""What every request passes: shape of refusals, faults, probes, figures."""

import logging
import threading
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from base.cpus import available_cpus
from base.errors import ArtifactError
from serving.collection import CollectionBusy
from serving.http.gate.gate import refusal_of
from serving.http.policy.settings import Settings
from tests.serving.http.conftest import Running, png, started

# Shapes


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/nowhere", (404, "not-found", None)),
        ("POST", "/nowhere", (404, "not-found", None)),
        ("GET", "/web/none.js", (404, "not-found", None)),
        ("GET", "/embed", (405, "method-not-allowed", None)),
        ("PUT", "/search", (405, "method-not-allowed", None)),
        ("PUT", "/items", (405, "method-not-allowed", None)),
        ("POST", "/items/x", (405, "method-not-allowed", None)),
        ("DELETE", "/items/x/similar", (405, "method-not-allowed", None)),
        ("POST", "/", (405, "method-not-allowed", None)),
        ("POST", "/livez", (405, "method-not-allowed", None)),
        ("OPTIONS", "/embed", (405, "method-not-allowed", None)),
        ("PATCH", "/items", (405, "method-not-allowed", None)),
    ],
)
def test_routes_and_methods(
    service: Running, method: str, path: str, expected: tuple[int, str, str | None]
) -> None:
    answer = service.client.request(method, path)
    assert service.error(answer) == expected
    if answer.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        assert answer.headers["allow"]


def test_allow_names_every_method(service: Running) -> None:
    allow = service.client.put("/items").headers["allow"]
    assert set(allow.replace(" ", "").split(",")) == {"GET", "HEAD", "POST"}


def test_headers_of_every_answer(service: Running) -> None:
    for path in ("/", "/items", "/nowhere", "/livez"):
        headers = service.client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-request-id"]
        assert "bentoml" not in headers.get("server", "").lower()


def test_a_request_id_is_kept_if_it_is_a_word(service: Running) -> None:
    def id_of(text: str) -> str:
        return service.client.get("/livez", headers={"X-Request-ID": text}).headers["x-request-id"]

    assert id_of("job-7_a") == "job-7_a"
    assert id_of("two words") != "two words"
    assert id_of("x" * 65) != "x" * 65
    assert id_of("a") != id_of("b")


def test_probes(service: Running) -> None:
    assert service.client.get("/livez").status_code == 200
    assert service.client.get("/readyz").status_code == 200


def test_not_ready_until_warm(tiny_encoder: Path) -> None:
    with started(Settings(encoder=tiny_encoder), warm=False) as running:
        assert running.error(running.client.get("/readyz")) == (503, "not-ready", None)
        assert running.client.get("/livez").status_code == 200
        running.runtime.embedder.warm = True
        assert running.client.get("/readyz").status_code == 200


def test_a_large_request_does_not_hold_up_a_small_one(
    tiny_encoder: Path, image_bytes: bytes, images: dict[str, bytes]
) -> None:
    """The image of a request of one is decoded long before the last of a request of 64."""
    single = images["squares/01.png"]
    assert single != image_bytes
    gate, entered = threading.Event(), threading.Event()
    begun: list[bytes] = []
    with started(Settings(encoder=tiny_encoder)) as running:
        decode = running.runtime.embedder._decode

        def gated(content: bytes) -> Any:
            begun.append(content)
            entered.set()
            assert gate.wait(20)
            return decode(content)

        running.runtime.embedder._decode = gated  # type: ignore[method-assign]

        def embed(images: list[bytes]) -> int:
            files = [("images", image) for image in images]
            return httpx.post(f"{running.url}/embed", files=files, timeout=30).status_code

        with ThreadPoolExecutor(2) as clients:
            large = clients.submit(embed, [image_bytes] * 64)
            assert entered.wait(20)
            small = clients.submit(embed, [single])
            while running.runtime.embedder.batcher.admitted != 65:
                running.client.get("/livez")
            running.client.get("/livez")  # by now it stands in the queue
            gate.set()
            assert (large.result(), small.result()) == (200, 200)
    assert len(begun) == 65
    assert begun.index(single) <= 2 * (available_cpus() + 1)


# Faults


@pytest.mark.parametrize(("method", "path"), [("POST", "/embed"), ("GET", "/items")])
def test_a_fault_is_logged_and_hidden(  # noqa: PLR0917 - fixtures
    service: Running,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    images: dict[str, bytes],
    method: str,
    path: str,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("/secret/path broke")

    monkeypatch.setattr(service.runtime.embedder, "embed", fail)
    monkeypatch.setattr(service.runtime.collection.current, "items", fail)
    files = {"image": images["discs/00.jpg"]} if method == "POST" else None
    with caplog.at_level(logging.ERROR):
        answer = service.client.request(method, path, files=files)
    assert service.error(answer) == (500, "internal", None)
    assert "secret" not in answer.text
    assert answer.headers["x-request-id"] in answer.text
    assert "/secret/path broke" in caplog.text
    assert answer.headers["x-request-id"] in caplog.text


def test_a_damaged_collection_is_a_fault_and_shows_no_path(
    service: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ArtifactError("/data/shop/ledger.db is damaged")

    monkeypatch.setattr(service.runtime.collection.current, "items", fail)
    answer = service.client.get("/items")
    assert service.error(answer) == (500, "internal", None)
    assert "/data" not in answer.text
    assert "/data/shop/ledger.db is damaged" in caplog.text


def test_a_busy_collection_is_tried_again(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise CollectionBusy("process 5 is writing to /data/shop")

    monkeypatch.setattr(service.runtime.collection.current, "add", fail)
    answer = service.client.post("/items", json={"items": [{"key": "a", "vector": [1.0] * 24}]})
    assert service.error(answer) == (503, "collection-busy", None)
    assert answer.headers["retry-after"] == "1"
    assert "/data" not in answer.text


def test_a_fault_of_the_encoder_fails_only_the_image_at_fault(
    service: Running, images: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = service.runtime.embedder.batcher._encode

    def fail_on_one(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        if (images == 255).all(axis=(1, 2, 3)).any():
            raise RuntimeError("out of memory")
        return real(images)

    for name in ("_encode", "_alone"):
        monkeypatch.setattr(service.runtime.embedder.batcher, name, fail_on_one)
    white = np.full((8, 8, 3), 255, np.uint8)
    assert service.client.post("/embed", files={"image": png(white)}).status_code == 500
    assert service.client.post("/embed", files={"image": images["discs/00.jpg"]}).is_success


# Figures


def test_metrics_have_bounded_labels(service: Running, images: dict[str, bytes]) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    for number in range(20):
        service.client.get(f"/scan/{number}")
        service.client.get(f"/items/none-{number}")
        service.client.request("PATCH", f"/web/{number}")
    service.client.post("/embed", files=[("image", images["discs/00.jpg"]), ("image", b"no")])
    answer = service.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families: dict[str, Any] = {
        family.name: family.samples for family in text_string_to_metric_families(answer.text)
    }
    requests = families["lookalike_requests"]
    routes = {sample.labels["route"] for sample in requests}
    assert {"other", "/items/{key}", "/embed"} <= routes
    assert not any("scan" in route or "none" in route for route in routes)
    assert len({sample.labels["method"] for sample in requests}) <= 8
    assert [sample.value for sample in families["lookalike_items"]] == [len(images)]
    buckets = [
        sample.value
        for sample in families["lookalike_batch_images"]
        if sample.name.endswith("_bucket")
    ]
    assert buckets == sorted(buckets)
    outcomes = {sample.labels["outcome"]: sample.value for sample in families["lookalike_images"]}
    assert outcomes["refused"] >= 1
    assert outcomes["embedded"] >= 1
    refused = {sample.labels["type"] for sample in families["lookalike_refused"]}
    assert {"not-found", "unknown-key", "method-not-allowed"} <= refused


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("/embed/", "../embed"),
        ("/embed//", "../../embed"),
        ("/v1/models/?a=b%20c", "../models?a=b%20c"),
        ("/v2/models/x:y/", "../x:y"),
    ],
)
def test_a_redirect_is_relative(service: Running, path: str, location: str) -> None:
    """So that it keeps the scheme, the host and the prefix that the client used."""
    answer = service.client.get(path, headers={"Host": "localhost"})
    assert (answer.status_code, answer.headers["location"]) == (307, location)
    if "//" not in path:  # which urllib takes for one slash, unlike browsers
        followed = urllib.parse.urljoin(f"https://shop.example/a{path}", location)
        assert followed.partition("?")[
            0
        ] == f"https://shop.example/a{path.partition('/?')[0]}".rstrip("/")


def test_a_request_that_gets_no_memory_may_come_again() -> None:
    scope = {"method": "POST", "path": "/embed", "lookalike.id": "1"}
    refusal = refusal_of(MemoryError(), scope)
    assert (refusal.status, refusal.type) == (503, "out-of-memory")
    assert refusal.headers["Retry-After"] == "5"
