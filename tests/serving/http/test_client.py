"""The Python client against the service, and against a server that is busy at first."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from base.errors import UsageError
from serving.client import AsyncClient, Client, ServiceError
from tests.serving.http.conftest import Running

Encode = Callable[[bytes], NDArray[np.float32]]


def test_embeds_in_batches_and_in_order(
    service: Running, images: dict[str, bytes], encode: Encode
) -> None:
    contents = list(images.values())[:7]
    expected = np.stack([encode(content) for content in contents])

    async def with_asyncio() -> NDArray[np.float32]:
        async with AsyncClient(service.url) as client:
            return await client.embed(contents, batch=3)

    with Client(service.url) as client:
        for vectors in (client.embed(contents, batch=3), asyncio.run(with_asyncio())):
            assert vectors.dtype == np.float32
            np.testing.assert_allclose(vectors, expected, atol=1e-5)
        assert client.embed([]).shape == (0, 0)
        with pytest.raises(UsageError, match="batch is 0"):
            client.embed(contents, batch=0)


def test_searches(service: Running, images: dict[str, bytes], encode: Encode) -> None:
    content = images["discs/00.jpg"]
    queries: tuple[dict[str, Any], ...] = (
        {"image": content},
        {"vector": encode(content)},
        {"key": "discs/01.png"},
    )

    async def with_asyncio() -> str:
        async with AsyncClient(service.url) as client:
            return (await client.search(image=content, k=1))[0].key

    with Client(service.url) as client:
        first = [client.search(**query, k=3)[0] for query in queries]
        (labeled,) = client.search(image=content, k=1, filter={"label": "ramps"})
    assert [hit.key for hit in first[:2]] == ["discs/00.jpg"] * 2
    assert first[0].score == pytest.approx(1, abs=1e-4)
    assert labeled.label == "ramps"
    assert asyncio.run(with_asyncio()) == "discs/00.jpg"


def test_searches_with_several_examples(
    service: Running, images: dict[str, bytes], encode: Encode
) -> None:
    liked, unlike = images["discs/00.jpg"], images["ramps/00.jpg"]
    mean = (encode(liked) + encode(images["discs/01.png"])) / 2
    mixture = (mean - encode(unlike) / 2).astype(np.float32)

    async def with_asyncio() -> list[str]:
        async with AsyncClient(service.url) as client:
            hits = await client.search(positive=[liked, "discs/01.png"], negative=[encode(unlike)])
            return [hit.key for hit in hits]

    with Client(service.url) as client:
        hits = client.search(positive=[encode(liked), "discs/01.png"], negative=[unlike])
        expected = [hit.key for hit in client.search(vector=mixture, k=11)]
    assert [hit.key for hit in hits] == [key for key in expected if key != "discs/01.png"][:10]
    assert asyncio.run(with_asyncio()) == [hit.key for hit in hits]


def test_says_what_was_refused(service: Running, image_bytes: bytes) -> None:
    with Client(service.url) as client:
        with pytest.raises(ServiceError, match="not-an-image") as refused:
            client.embed([image_bytes, b"no picture"])
        assert (refused.value.status, refused.value.param) == (422, "images[1]")
        with pytest.raises(ServiceError, match="unknown-key") as unknown:
            client.search(key="absent")
        assert unknown.value.status == 404


class Busy(BaseHTTPRequestHandler):
    """Answers 429, then 503, then well."""

    answers: list[tuple[int, str, bytes]]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        status, after, body = self.answers.pop(0)
        self.send_response(status)
        if after:
            self.send_header("Retry-After", after)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def busy() -> Iterator[tuple[str, type[Busy]]]:
    handler = type("Handler", (Busy,), {"answers": []})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    thread.join()
    server.server_close()


def test_asks_again_after_the_time_it_was_told(
    busy: tuple[str, type[Busy]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, handler = busy
    pauses: list[float] = []
    monkeypatch.setattr("serving.client.time.sleep", pauses.append)
    good = (200, "", b'{"neighbours": []}')
    handler.answers = [(429, "7", b"{}"), (503, "", b"{}"), good]
    with Client(url) as client:
        assert client.search(key="a") == []
    assert pauses[0] == 7
    assert 0 < pauses[1] < 1
    handler.answers = [(429, "", b'{"error": {"type": "overloaded", "message": "x"}}')] * 3
    with Client(url, retries=2) as client, pytest.raises(ServiceError, match="overloaded"):
        client.search(key="a")
    assert handler.answers == []
    handler.answers = [(502, "", b"<html>bad gateway</html>")]
    with Client(url) as client, pytest.raises(ServiceError, match="bad gateway"):
        client.search(key="a")


def test_gives_up_on_nobody() -> None:
    with Client("http://127.0.0.1:1", retries=1) as client, pytest.raises(httpx.ConnectError):
        client.search(key="a")


def test_sends_its_key(busy: tuple[str, type[Busy]]) -> None:
    url, handler = busy
    seen: list[str] = []
    handler.answers = [(200, "", b'{"neighbours": []}')]
    original = handler.do_POST

    def note(self: Busy) -> None:
        seen.append(self.headers["Authorization"])
        original(self)

    handler.do_POST = note  # type: ignore[method-assign]
    with Client(url, api_key="a-long-secret") as client:
        client.search(key="a")
    assert seen == ["Bearer a-long-secret"]
