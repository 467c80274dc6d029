"""More than a service takes, requests that last too long, clients that go."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from serving.http.engine.batcher import Batcher
from serving.http.policy.settings import Settings
from tests.serving.http.conftest import Running, started


@contextlib.contextmanager
def held(batcher: Batcher) -> Iterator[threading.Event]:
    """The encoder stands still until the block ends; the event tells that a batch has begun."""
    gate, entered = threading.Event(), threading.Event()
    real, alone = batcher._encode, batcher._alone

    def wait(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        entered.set()
        assert gate.wait(20)
        return real(images)

    batcher._encode = batcher._alone = wait
    try:
        yield entered
    finally:
        gate.set()
        batcher._encode, batcher._alone = real, alone


@pytest.fixture
def small(tiny_encoder: Path) -> Iterator[Running]:
    """A service with few places and little patience."""
    settings = Settings(
        encoder=tiny_encoder, max_images=3, max_queue=3, body_seconds=0.3, request_seconds=1.0
    )
    with started(settings) as running:
        yield running


def test_overload_is_answered_at_once(small: Running, images: dict[str, bytes]) -> None:
    content = images["discs/00.jpg"]

    async def main() -> None:
        async with httpx.AsyncClient(base_url=small.url, timeout=20) as client:
            with held(small.runtime.embedder.batcher) as entered:
                files = [("image", ("x", content))] * 3
                first = asyncio.create_task(client.post("/embed", files=files))
                await asyncio.to_thread(entered.wait, 10)
                answer = await client.post("/embed", files={"image": content})
                assert small.error(answer) == (429, "overloaded", None)
                assert 1 <= int(answer.headers["retry-after"]) <= 60
            assert (await first).status_code == 200
            assert (await client.post("/embed", files={"image": content})).status_code == 200

    asyncio.run(main())
    assert small.runtime.embedder.batcher.admitted == 0


def test_a_request_that_takes_too_long_is_given_up(
    small: Running, images: dict[str, bytes]
) -> None:
    with held(small.runtime.embedder.batcher):
        answer = small.client.post("/embed", files={"image": images["discs/00.jpg"]})
        assert small.error(answer) == (503, "timeout", None)
        assert answer.headers["retry-after"]
    assert small.client.post("/embed", files={"image": images["discs/00.jpg"]}).is_success


def connect(service: Running) -> socket.socket:
    url = httpx.URL(service.url)
    return socket.create_connection((url.host, url.port or 80), timeout=10)


HEAD = (
    b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
    b"Content-Length: 1000\r\n\r\n"
)


def test_a_slow_client_is_not_waited_for(small: Running) -> None:
    with connect(small) as connection:
        connection.sendall(HEAD + b"half")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"request-too-slow"' in answer


def test_a_client_that_goes_while_sending_leaves_nothing_behind(small: Running) -> None:
    with connect(small) as connection:
        connection.sendall(HEAD + b"half")
    assert small.client.get("/livez").is_success
    assert small.runtime.embedder.batcher.admitted == 0


def test_the_work_of_a_client_that_has_gone_is_dropped(
    tiny_encoder: Path, images: dict[str, bytes]
) -> None:
    content = images["discs/00.jpg"]
    head = (
        "POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    with started(Settings(encoder=tiny_encoder)) as running:
        with held(running.runtime.embedder.batcher) as entered:
            connection = connect(running)
            connection.sendall(head.encode() + content)
            assert entered.wait(10)
            assert running.runtime.embedder.batcher.admitted == 1
            connection.close()
            wait_until(lambda: running.runtime.embedder.batcher.admitted == 0)
        assert 'status="499"' in running.client.get("/metrics").text


def wait_until(condition: Callable[[], bool]) -> None:
    done = threading.Event()
    for _ in range(1000):
        if condition():
            return
        done.wait(0.01)
    raise AssertionError("it never came true")
