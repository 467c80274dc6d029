"""The Python client against the service, and against a server that is busy at first."""

import asyncio
import json
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
    handler.answers = [(502, "", b"<html>bad gateway</html>")] * 2
    with Client(url, retries=1) as client, pytest.raises(ServiceError, match="bad gateway"):
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


def test_items(fresh: Running, images: dict[str, bytes], encode: Encode) -> None:
    content = images["discs/00.jpg"]
    with Client(fresh.url) as client:
        assert client.add("a/b ü", image=content, label="x", metadata={"n": 1}) == "added"
        item = client.get("a/b ü", vector=True)
        assert (item.key, item.label, item.metadata) == ("a/b ü", "x", {"n": 1})
        assert item.vector is not None
        np.testing.assert_allclose(item.vector, encode(content), atol=1e-5)
        assert client.get("a/b ü").vector is None
        with pytest.raises(ServiceError, match="key-exists"):
            client.add("a/b ü", vector=encode(content))
        for expected in ("replaced", "unchanged"):
            link = "https://example.com/1.jpg"
            vector = encode(content)
            assert client.add("a/b ü", vector=vector, uri=link, on_duplicate="replace") == expected
        first = client.list_items(limit=30)
        rest = client.list_items(after=first[-1].key)
        keys = [one.key for one in first + rest]
        assert keys == sorted([*images, "a/b ü"])
        client.delete("a/b ü")
        with pytest.raises(ServiceError) as refused:
            client.get("a/b ü")
        assert refused.value.status == 404


def test_items_with_asyncio(fresh: Running, images: dict[str, bytes]) -> None:
    async def use() -> None:
        async with AsyncClient(fresh.url) as client:
            assert await client.add("new", image=images["discs/00.jpg"]) == "added"
            assert (await client.get("new")).key == "new"
            await client.delete("new")
            assert len(await client.list_items(limit=7)) == 7

    asyncio.run(use())


FIELDS: dict[str, Any] = {
    "score": 1.0,
    "uri": None,
    "label": None,
    "metadata": {},
    "thumbnail": "/t",
}
ANSWERS = {
    "/search": {"neighbours": [{"key": "a", **FIELDS, "new": 7}], "newer": 1},
    "/items": {"added": 1, "replaced": 0, "unchanged": 0, "keys": ["a"], "newer": 1},
}


class Shaky(BaseHTTPRequestHandler):
    """Fails twice before each answer: with a status, or by closing the connection."""

    failure: int | None = None
    failures = 2
    seen = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        type(self).seen += 1
        if self.seen <= self.failures and self.failure is None:
            self.close_connection = True
            return
        status = self.failure if self.seen <= self.failures else 200
        body = json.dumps(ANSWERS[self.path]).encode() if status == 200 else b"<html>proxy"
        self.send_response(status or 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize("failure", [None, 502, 504])
def test_repeats_what_does_no_harm_twice(failure: int | None) -> None:
    """And reads answers that have more fields than it knows."""

    class Handler(Shaky):
        pass

    Handler.failure = failure
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with Client(f"http://127.0.0.1:{server.server_port}") as client:
                assert client.search(key="b")[0].key == "a"
                assert Handler.seen == 3
                Handler.seen = 0
                assert client.add("a", vector=[1.0], on_duplicate="replace") == "added"
                Handler.seen = 0
                with pytest.raises((ServiceError, httpx.RemoteProtocolError)):
                    client.add("a", vector=[1.0])
                assert Handler.seen == 1
        finally:
            server.shutdown()
            thread.join()
