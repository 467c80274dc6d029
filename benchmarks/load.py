"""Load one HTTP server over loopback, as a process of its own.

    python -m benchmarks.load < order.json > result.json

Not wrk: that can neither keep a constant arrival rate nor say when single answers came. This takes
about 0.15 ms of CPU for a request with a 30 KB image (`cpu_seconds` says how much it was), two
orders of magnitude less than what it measures.

Two kinds of load:
- closed: `clients` connections, each sends its next request when it has its answer;
- open: `rate` requests a second at a constant pace, whatever comes back. A request's time counts
  from when it was due, so that a server that stalls cannot slow the load down unnoticed.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import resource
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import httptools
import uvloop

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, kw_only=True)
class Order:
    """What to send, and how.

    Attributes:
        port: of the server on 127.0.0.1.
        path: to POST to.
        content_type: of the bodies.
        bodies: files, sent in turn.
        seconds: how long answers are counted.
        lead: seconds of the same load before that, not counted.
        clients: connections of a closed load; 0 for an open one.
        rate: requests a second of an open load.
    """

    port: int
    path: str
    content_type: str
    bodies: list[str]
    seconds: float
    lead: float = 1.0
    clients: int = 0
    rate: float = 0.0


@dataclass(kw_only=True)
class Result:
    """What came back.

    Attributes:
        seconds: measured.
        answers: (status, seconds from due to answered) of each request answered in that time.
        cpu_seconds: what the load itself took of the machine, its lead included.
        last_body: of the last answer with status 200.
    """

    seconds: float = 0.0
    answers: list[tuple[int, float]] = field(default_factory=list)
    cpu_seconds: float = 0.0
    last_body: str = ""


class Connection(asyncio.Protocol):
    """One connection that has one request on its way at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.answer: asyncio.Future[tuple[int, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass of it

    def data_received(self, data: bytes) -> None:
        """Parse a piece of the answer."""
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the request that was on its way, if any."""
        self.transport = None
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(exc or ConnectionError("closed before the answer"))

    def on_body(self, body: bytes) -> None:
        """Collect the answer's body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Give out the answer."""
        if self.answer is not None and not self.answer.done():
            self.answer.set_result((self._parser.get_status_code(), b"".join(self._body)))

    async def ask(self, request: tuple[bytes, bytes]) -> tuple[int, bytes]:
        """Send head and body; returns the answer's status and body."""
        assert self.transport is not None
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self.answer = asyncio.get_running_loop().create_future()
        self.transport.writelines(request)
        return await self.answer


class Load:
    """One measurement."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.result = Result(seconds=order.seconds)
        self._requests = _requests(order)
        self._idle: list[Connection] = []
        self._begin = time.perf_counter() + order.lead
        self._end = self._begin + order.seconds

    async def run(self) -> Result:
        """Put the load on and return what came back."""
        await (self._closed() if self.order.clients else self._open())
        for connection in self._idle:
            if connection.transport is not None:
                connection.transport.close()
        await asyncio.sleep(0.01)  # they close on the loop
        usage = resource.getrusage(resource.RUSAGE_SELF)
        self.result.cpu_seconds = usage.ru_utime + usage.ru_stime
        return self.result

    async def _closed(self) -> None:
        async def client() -> None:
            while (now := time.perf_counter()) < self._end:
                await self._request(now)

        await asyncio.gather(*(client() for _ in range(self.order.clients)))

    async def _open(self) -> None:
        start = time.perf_counter()
        under_way = set()
        for number in itertools.count():
            due = start + number / self.order.rate
            if due >= self._end:
                break
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            under_way.add(task := asyncio.ensure_future(self._request(due)))
            task.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way)

    async def _request(self, due: float) -> None:
        connection = self._idle.pop() if self._idle else await self._connect()
        status, body = await connection.ask(next(self._requests))
        now = time.perf_counter()
        if self._begin <= now < self._end:
            self.result.answers.append((status, now - due))
        if status == 200:
            self.result.last_body = body.decode(errors="replace")
        if connection.transport is not None and not connection.transport.is_closing():
            self._idle.append(connection)

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, "127.0.0.1", self.order.port)
        return connection


def _requests(order: Order) -> Iterator[tuple[bytes, bytes]]:
    """Yield heads and bodies, over and over."""
    requests = []
    for path in order.bodies:
        body = Path(path).read_bytes()
        head = (
            f"POST {order.path} HTTP/1.1\r\nHost: 127.0.0.1:{order.port}\r\n"
            f"Content-Type: {order.content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        requests.append((head.encode(), body))
    return itertools.cycle(requests)


def main() -> None:
    """Read an order from standard input and print the result."""
    order = Order(**json.load(sys.stdin))
    result = uvloop.run(Load(order).run())
    json.dump(asdict(result), sys.stdout)


if __name__ == "__main__":
    main()
