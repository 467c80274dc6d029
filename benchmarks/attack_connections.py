"""Connections made to do harm: endless heads, silence, slow bodies. Each returns what it met."""

from __future__ import annotations

import socket
import time
from collections import Counter
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SILENT = 1100
CLOSED = "closed"
Outcome = Counter[int | str]


def connected(port: int) -> socket.socket:
    """Return a connection to the service."""
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def status_of(connection: socket.socket) -> int | str:
    """Return the status of the answer that comes, `closed` where none does."""
    answer = b""
    with suppress(OSError):
        while b"\r\n" not in answer and (piece := connection.recv(4096)):
            answer += piece
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else CLOSED


def send_all(connection: socket.socket, pieces: Iterator[bytes]) -> int | str:
    """Send until the other side does not take more; return the status of its answer."""
    with suppress(OSError):
        for piece in pieces:
            connection.sendall(piece)
    return status_of(connection)


def many_headers(port: int, end: float) -> Outcome:
    """Send 60 MB of tiny headers, again and again."""
    return _heads(port, end, lambda: iter([b"X: a\r\n" * 10_000] * 1000))


def one_header(port: int, end: float) -> Outcome:
    """Send one header of 60 MB, again and again."""
    return _heads(port, end, lambda: iter([b"X: a", *[b"a" * 60_000] * 1000]))


def _heads(port: int, end: float, pieces: Callable[[], Iterator[bytes]]) -> Outcome:
    met: Outcome = Counter()
    while time.monotonic() < end:
        with connected(port) as connection:
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n")
            met[send_all(connection, pieces())] += 1
    return met


def silent(port: int, end: float) -> Outcome:
    """Hold many connections that say nothing."""
    with ExitStack() as stack:
        for _ in range(SILENT):
            with suppress(OSError):
                stack.enter_context(connected(port))
        time.sleep(max(0.0, end - time.monotonic()))
    return Counter({CLOSED: SILENT})


def half_heads(port: int, end: float) -> Outcome:
    """Hold many connections that do not finish their head."""
    return _held(port, end, b"GET /livez HTTP/1.1\r\nX: a", b"")


def slow_bodies(port: int, end: float) -> Outcome:
    """Hold many connections that send a byte of a body from time to time."""
    head = (
        b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
        b"Content-Length: 1000000\r\n\r\n"
    )
    return _held(port, end, head, b"x")


def _held(port: int, end: float, first: bytes, then: bytes) -> Outcome:
    with ExitStack() as stack:
        connections = [stack.enter_context(connected(port)) for _ in range(200)]
        for connection in connections:
            connection.sendall(first)
        while time.monotonic() < end:
            time.sleep(0.5)
            for connection in connections:
                with suppress(OSError):
                    connection.sendall(then)
        return Counter(status_of(connection) for connection in connections)


REFUSED = frozenset[int | str]((431, 408, CLOSED))
CONNECTIONS: dict[str, Callable[[int, float], Outcome]] = {
    "heads of 60 MB": many_headers,
    "a header of 60 MB": one_header,
    "1,100 silent connections": silent,
    "200 half heads": half_heads,
    "200 slow bodies": slow_bodies,
}
