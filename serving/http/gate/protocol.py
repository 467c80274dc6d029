"""uvicorn's HTTP/1.1 over httptools, with bounds that both lack.

    a head     at most 64 KiB and 128 header lines, also while it is incomplete: 431
    its time   counted from accept, or from the first byte after the last answer: 408
    a body     that is not read to its end closes the connection after the answer
    all        `connections`

A refused connection is closed for writing first; what still comes is read and dropped for a moment.
Closed at once, it would be reset, and the client would lose the answer.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.http.gate.connections import Connections
from serving.http.request.errors import HttpError

if TYPE_CHECKING:
    import asyncio

    from starlette.types import Scope
    from uvicorn.config import Config
    from uvicorn.server import ServerState

MAX_HEAD = 64 * 2**10  # bytes
MAX_LINES = 128
LINGER_SECONDS = 2.0  # for a refused client to read its answer
CONNECTIONS = "connections"  # in the state of the app
KEY = "lookalike.protocol"  # in the ASGI scope


def unread(scope: Scope) -> bool:
    """Whether the request's body has not come to its end yet."""
    protocol: BoundedProtocol | None = scope.get(KEY)
    return protocol is not None and protocol.unread


class BoundedProtocol(HttpToolsProtocol):
    """One connection; `config.app.state` has the `Connections`, or each has limits of its own."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        shared = getattr(getattr(config.app, "state", None), CONNECTIONS, None)
        if shared is None:
            shared = Connections(head_seconds=30.0, maximum=1)
        self._all: Connections = shared
        self._clock: asyncio.TimerHandle | None = None
        self._in_body = False
        self._head = 0  # bytes that have come of an incomplete head
        self._piece = 0  # bytes that the parser is reading now
        self._mid_piece = False  # the head began behind something else in the piece
        self._dropping = False

    @property
    def unread(self) -> bool:
        """Whether the body of the request that is being answered is still to come."""
        return self.cycle is not None and not self.pipeline and self.cycle.more_body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock, and make room."""
        super().connection_made(transport)
        self._start_clock()
        self._all.admit(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop_clock()
        self._all.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what has come, no more at once than a head may have."""
        for start in range(0, len(data), MAX_HEAD):
            if self._dropping or self.transport.is_closing():
                return
            self._parse(data[start : start + MAX_HEAD] if len(data) > MAX_HEAD else data)

    def _parse(self, piece: bytes) -> None:
        self._piece, self._mid_piece = len(piece), self._in_body
        super().data_received(piece)
        if self._in_body or self._dropping:
            return
        self._head += self._piece
        if self._head >= MAX_HEAD:
            self._refuse(_too_large())
        elif self._head and self._clock is None:
            self._start_clock()

    def on_message_begin(self) -> None:
        """Count the bytes of a head from here."""
        super().on_message_begin()
        if self._mid_piece:
            self._head = -self._piece

    def on_headers_complete(self) -> None:
        """Refuse a head that is too large, else let its request begin."""
        if len(self.headers) > MAX_LINES or self._is_large():
            self._refuse(_too_large())
            raise ValueError("the head is too large")  # ends the parser
        self._stop_clock()
        self._in_body, self._head = True, 0
        self._all.receive(self)
        self.scope[KEY] = self  # type: ignore[literal-required]
        super().on_headers_complete()
        if self.cycle is not None:
            self.cycle.transport = _Closing(self)  # type: ignore[assignment]

    def _is_large(self) -> bool:
        if self._head + self._piece <= MAX_HEAD:
            return False
        lines = sum(len(name) + len(value) + len(": \r\n") for name, value in self.headers)
        return len(self.url) + lines > MAX_HEAD

    def on_message_complete(self) -> None:
        """Note the end of a body."""
        super().on_message_complete()
        self._in_body, self._mid_piece, self._head = False, True, -self._piece
        self._all.work(self)

    def on_response_complete(self) -> None:
        """Wait for the next request, or close where the body of this one was not read."""
        last, was_unread = not self.pipeline, self.unread
        super().on_response_complete()
        if was_unread:
            self.close_gently()
        elif last:
            self._all.wait(self)

    def send_400_response(self, msg: str) -> None:
        """Answer a head that cannot be parsed, unless it has been answered."""
        if not self._dropping:
            super().send_400_response(msg)

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over."""
        self._all.remove(self)
        super().handle_websocket_upgrade()

    def drop(self) -> None:
        """Close it at once, without an answer."""
        self.transport.abort()

    def close_gently(self) -> None:
        """Close it for writing, and for good in a moment."""
        if self._dropping or self.transport.is_closing():
            return
        self._dropping = True
        self._stop_clock()
        self._unset_keepalive_if_required()
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._clock = self.loop.call_later(LINGER_SECONDS, self.transport.close)
        self._all.wait(self)

    def _refuse(self, refusal: HttpError) -> None:
        """Answer in place of the app and close; the middle of another answer is only cut."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.close()
            return
        path = bytes(getattr(self, "url", b"")).partition(b"?")[0].decode("latin-1")
        response = refusal.response(path)
        self._all.on_refused(self.client, path, refusal)
        lines = [f"HTTP/1.1 {refusal.status} {HTTPStatus(refusal.status).phrase}".encode()]
        lines += [name + b": " + value for name, value in response.raw_headers]
        lines += [b"connection: close", b"", bytes(response.body)]
        self.transport.write(b"\r\n".join(lines))
        self.close_gently()

    def _start_clock(self) -> None:
        self._clock = self.loop.call_later(self._all.head_seconds, self._time_is_up)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _time_is_up(self) -> None:
        self._clock = None
        if self._head > 0:
            self._refuse(_too_slow(self._all.head_seconds))
        else:
            self.transport.close()


class _Closing:
    """The transport that an answer is written to: where a body is unread it closes gently."""

    __slots__ = ("_protocol", "is_closing", "write")

    def __init__(self, protocol: BoundedProtocol) -> None:
        self._protocol = protocol
        self.write = protocol.transport.write
        self.is_closing = protocol.transport.is_closing

    def close(self) -> None:
        """Close the connection."""
        if self._protocol.unread:
            self._protocol.close_gently()
        else:
            self._protocol.transport.close()


def _too_large() -> HttpError:
    return HttpError(
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        "head-too-large",
        f"the head of the request has more than {MAX_HEAD} bytes or {MAX_LINES} header lines",
    )


def _too_slow(seconds: float) -> HttpError:
    return HttpError(
        HTTPStatus.REQUEST_TIMEOUT,
        "request-too-slow",
        f"the head of the request did not arrive within {seconds:g} s",
    )
