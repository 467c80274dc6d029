"""Heads and connections that never end, over raw sockets."""

import contextlib
import json
import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.http.gate.connections import Connections, allowed_connections
from serving.http.gate.protocol import MAX_HEAD, MAX_LINES
from serving.http.policy.settings import Settings
from tests.serving.http.conftest import Running, started

MIB = 2**20
GET = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n"
SECONDS = 0.5  # for a head


@pytest.fixture(scope="module")
def hasty(tiny_encoder: Path) -> Iterator[Running]:
    """A service that waits half a second for a head, and takes 40 connections."""
    settings = Settings(encoder=tiny_encoder, body_seconds=SECONDS, max_connections=40)
    with started(settings) as running:
        yield running


def connected(running: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(running.url.rpartition(":")[2])), timeout=20)


def answer_to(running: Running, sent: bytes) -> bytes:
    """Send what the service takes, and read to the end."""
    with connected(running) as one:
        with contextlib.suppress(ConnectionError):
            one.sendall(sent)
        return received(one)


def received(one: socket.socket) -> bytes:
    content = b""
    with contextlib.suppress(ConnectionError):
        while piece := one.recv(MIB):
            content += piece
    return content


def refusal(content: bytes) -> tuple[int, str]:
    head, _, body = content.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    return int(head.split()[1]), json.loads(body)["error"]["type"]


@pytest.mark.parametrize(
    "head",
    [
        GET + b"X: a\r\n" * (2 * MIB),
        GET + b"X: " + b"a" * 12 * MIB,
        GET + b"a" * 12 * MIB,
        b"GET /" + b"a" * 12 * MIB,
        b"GET /livez?" + b"a=b&" * 3 * MIB,
        GET + b"X: a\r\n" * MAX_LINES + b"\r\n",
        GET + b"X: " + b"a" * MAX_HEAD + b"\r\n\r\n",
        GET + (b"X: " + b"a" * (MAX_HEAD // 2) + b"\r\n") * 2 + b"\r\n",
        GET + b"\r\n" + GET + b"X: a\r\n" * MAX_LINES + b"\r\n",
    ],
    ids=[
        "lines",
        "value",
        "name",
        "path",
        "query",
        "complete-lines",
        "complete-value",
        "complete-values",
        "second",
    ],
)
def test_a_head_too_large_is_refused(hasty: Running, head: bytes) -> None:
    content = answer_to(hasty, head)
    if head.startswith(GET + b"\r\n"):  # the first of two is answered, or cut off by the second
        content = content[content.find(b"HTTP/1.1 431") :]
    if content:
        assert refusal(content) == (431, "head-too-large")
    assert hasty.client.get("/livez").status_code == 200


def test_a_head_within_the_bounds_is_taken(hasty: Running) -> None:
    lines = b"".join(b"X-%d: %s\r\n" % (n, b"a" * 400) for n in range(MAX_LINES - 2))
    content = answer_to(hasty, GET + lines + b"Connection: close\r\n\r\n")
    assert content.startswith(b"HTTP/1.1 200")


def test_a_head_in_single_bytes_is_taken(hasty: Running) -> None:
    with connected(hasty) as one:
        for byte in GET + b"Connection: close\r\n\r\n":
            one.sendall(bytes([byte]))
        assert received(one).startswith(b"HTTP/1.1 200")


def test_many_requests_at_once_are_no_large_head(hasty: Running) -> None:
    requests = (GET + b"\r\n") * 3000
    content = answer_to(hasty, requests + GET + b"Connection: close\r\n\r\n")
    assert content.count(b"HTTP/1.1 200") == 3001


@pytest.mark.parametrize("sent", [GET, b"G", GET + b"X: "])
def test_half_a_head_has_its_time(hasty: Running, sent: bytes) -> None:
    assert refusal(answer_to(hasty, sent)) == (408, "request-too-slow")


def test_half_a_second_head_has_its_time(hasty: Running) -> None:
    with connected(hasty) as one:
        one.sendall(GET + b"\r\n")
        first = one.recv(MIB)
        one.sendall(GET)
        content = first + received(one)
    assert content.startswith(b"HTTP/1.1 200")
    assert refusal(content[content.find(b"HTTP/1.1 408") :]) == (408, "request-too-slow")


def test_a_drip_has_no_more_time(hasty: Running) -> None:
    with connected(hasty) as one:
        begun = time.monotonic()
        with contextlib.suppress(ConnectionError):
            one.sendall(GET)
            while time.monotonic() - begun < 4 * SECONDS:
                one.sendall(b"X: a\r\n")
                time.sleep(SECONDS / 10)
        assert refusal(received(one)) == (408, "request-too-slow")


def test_silence_is_closed(hasty: Running) -> None:
    with connected(hasty) as one:
        assert received(one) == b""


def test_the_oldest_silent_connections_make_room(tiny_encoder: Path) -> None:
    settings = Settings(encoder=tiny_encoder, max_connections=20)
    with started(settings) as running, contextlib.ExitStack() as stack:
        silent = [stack.enter_context(connected(running)) for _ in range(100)]
        for _ in range(5):
            assert running.client.get("/livez").status_code == 200
        assert received(silent[0]) == b""
        silent[-1].sendall(GET + b"Connection: close\r\n\r\n")
        assert received(silent[-1]).startswith(b"HTTP/1.1 200")


def test_bodies_that_never_come_make_room(tiny_encoder: Path) -> None:
    settings = Settings(encoder=tiny_encoder, max_connections=20)
    head = b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
    with started(settings) as running, contextlib.ExitStack() as stack:
        for _ in range(40):
            one = stack.enter_context(connected(running))
            one.sendall(head + b"Content-Length: 1000\r\n\r\n")
        assert running.client.get("/livez").status_code == 200


@pytest.mark.parametrize("length", [b"Content-Length: 60000000", b"Transfer-Encoding: chunked"])
@pytest.mark.parametrize("path", [b"/nothing", b"/embed"])
def test_a_body_refused_unread_closes_its_connection(
    hasty: Running, path: bytes, length: bytes
) -> None:
    media = b"Content-Type: image/png\r\nContent-Encoding: gzip\r\n"
    head = b"POST " + path + b" HTTP/1.1\r\nHost: localhost\r\n" + media + length + b"\r\n\r\n"
    status, _ = refusal(answer_to(hasty, head + b"100000\r\n" + b"a" * 100_000))
    assert status in (404, 415)


def test_a_read_body_keeps_its_connection(hasty: Running) -> None:
    body = b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nabcde"
    content = answer_to(hasty, body + GET + b"Connection: close\r\n\r\n")
    assert content.count(b"HTTP/1.1 ") == 2
    assert content.startswith(b"HTTP/1.1 415")
    assert b"HTTP/1.1 200" in content


class Fake:
    """A connection that notes that it was closed."""

    def __init__(self) -> None:
        self.dropped = False

    def drop(self) -> None:
        self.dropped = True


def test_who_is_closed_for_a_new_one() -> None:
    some = Connections(head_seconds=1, maximum=3)
    working, sending, waiting = Fake(), Fake(), Fake()
    for one in (working, sending, waiting):
        some.admit(one)
    for one in (working, sending):
        some.receive(one)
    some.work(working)
    newer = [Fake() for _ in range(4)]
    some.admit(newer[0])
    assert (waiting.dropped, sending.dropped) == (True, False)
    some.receive(newer[0])
    some.work(newer[0])
    some.admit(newer[1])
    assert (sending.dropped, newer[0].dropped) == (True, False)
    some.receive(newer[1])
    some.work(newer[1])
    some.admit(newer[2])
    assert newer[2].dropped
    assert len(some) == 3
    some.remove(newer[1])
    some.wait(newer[1])  # it is closed: it does not come back
    some.admit(newer[3])
    assert (newer[3].dropped, working.dropped, len(some)) == (False, False, 3)


def test_descriptors_leave_room_for_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, expected in ((1024, 768), (256, 128), (100_000, 4096), (None, 4096)):
        monkeypatch.setattr("serving.http.gate.connections.descriptor_limit", lambda one=limit: one)
        assert allowed_connections(4096) == expected


def test_refused_heads_are_counted_and_logged(
    hasty: Running, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = hasty.runtime.metrics
    before = metrics.total("lookalike_refused_total", type="head-too-large")
    with caplog.at_level(logging.INFO, "lookalike.access"):
        answer_to(hasty, b"GET /v2/health/live HTTP/1.1\r\n" + b"X: a\r\n" * MIB)
    assert metrics.total("lookalike_refused_total", type="head-too-large") == before + 1
    route = metrics.total("lookalike_requests_total", route="/v2/health/live", status="431")
    assert route == 1
    (line,) = [json.loads(one.message) for one in caplog.records if one.name == "lookalike.access"]
    assert (line["status"], line["refused"]) == (431, "head-too-large")
    assert line["client"] == "127.0.0.1"


def test_a_refused_head_under_v2_has_that_protocols_shape(hasty: Running) -> None:
    content = answer_to(hasty, b"GET /v2/health/live HTTP/1.1\r\n" + b"X: a\r\n" * MIB)
    assert isinstance(json.loads(content.partition(b"\r\n\r\n")[2])["error"], str)
