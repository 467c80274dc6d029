"""A bound on the bytes of all requests' bodies together.

Each request is limited by `max_body_bytes`; many large ones at once would still fill the memory. A
body's bytes count from when they arrive until its request is answered.
"""

from http import HTTPStatus

from serving.http.errors import Refusal

KEY = "lookalike.bytes"  # in the ASGI scope


class BytesInFlight:
    """The sum over all requests; used on the event loop only."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    def open(self) -> "Share":
        """The share of one request."""
        return Share(self)


class Share:
    """What one request holds of it."""

    def __init__(self, total: BytesInFlight) -> None:
        self._total = total
        self._held = 0

    def check(self, announced: int) -> None:
        """Refuses a body that would not fit now, before it is read."""
        if self._total.held + announced > self._total.limit:
            raise Refusal(
                HTTPStatus.TOO_MANY_REQUESTS,
                "overloaded",
                "the requests under way hold too many bytes: try again in 1 s",
                headers={"Retry-After": "1", "Connection": "close"},
            )

    def take(self, received: int) -> None:
        """Counts bytes that have arrived; refuses them where they are too many."""
        self.check(received)
        self._held += received
        self._total.held += received

    def close(self) -> None:
        """Gives all back."""
        self._total.held -= self._held
        self._held = 0
