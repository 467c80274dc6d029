"""A bound on the bytes of all requests' bodies together.

Each request is limited by `max_body_bytes`; many large ones at once would still fill the memory. A
body's bytes count from when they arrive until its request is answered.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from serving.http.request.errors import HttpError

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = "lookalike.bytes"  # in the ASGI scope


class BytesInFlight:
    """The sum over all requests; used on the event loop only."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self.on_change: Callable[[int], None] = lambda _held: None

    def open(self) -> Share:
        """Return the share of one request."""
        return Share(self)


class Share:
    """The bytes that one request holds."""

    def __init__(self, total: BytesInFlight) -> None:
        self._total = total
        self._held = 0

    def check(self, announced: int) -> None:
        """Refuse a body that would not fit now, before it is read."""
        if self._total.held + announced > self._total.limit:
            raise HttpError(
                HTTPStatus.TOO_MANY_REQUESTS,
                "overloaded",
                "the requests under way hold too many bytes: try again in 1 s",
                headers={"Retry-After": "1", "Connection": "close"},
            )

    def take(self, received: int) -> None:
        """Count bytes that have arrived, or refuse them where they are too many."""
        self.check(received)
        self._change(received)

    def close(self) -> None:
        """Release all of them."""
        self._change(-self._held)

    def _change(self, count: int) -> None:
        self._held += count
        self._total.held += count
        self._total.on_change(self._total.held)
