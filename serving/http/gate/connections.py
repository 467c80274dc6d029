"""A bound on the connections of one process.

A connection is waiting (for a head: silent, half sent, or kept alive), sending a body, or at work.
Where there are too many, the one that has waited longest is closed for a new one; if none waits,
the one that has been sending longest; if all are at work, the new one.
"""

from collections.abc import Callable
from typing import Protocol

from base.descriptors import descriptor_limit
from serving.http.request.errors import HttpError

RESERVED = 256  # descriptors for files, the collection, and connections that are being closed


OnRefused = Callable[[tuple[str, int] | None, str, HttpError], None]


class Connection(Protocol):
    """One that can be closed."""

    def drop(self) -> None:
        """Close it at once, without an answer."""


class Connections:
    """Those of one server; used on its event loop only.

    Attributes:
        head_seconds: how long a client may take until a head is complete.
        maximum: the most connections.
        on_refused: called with the client's address, the path as far as it is known, and the
            refusal, for what no app gets to see.
    """

    def __init__(self, *, head_seconds: float, maximum: int) -> None:
        self.head_seconds = head_seconds
        self.maximum = maximum
        self.on_refused: OnRefused = lambda _client, _path, _refusal: None
        self._open: set[Connection] = set()
        self._waiting: dict[Connection, None] = {}  # the oldest first
        self._sending: dict[Connection, None] = {}

    def __len__(self) -> int:
        """Return how many are open."""
        return len(self._open)

    def admit(self, connection: Connection) -> None:
        """Count a new connection, and close one where there are too many."""
        self._open.add(connection)
        if len(self._open) > self.maximum:
            oldest = next(iter(self._waiting), None) or next(iter(self._sending), connection)
            self.remove(oldest)
            oldest.drop()
            if oldest is connection:
                return
        self._waiting[connection] = None

    def wait(self, connection: Connection) -> None:
        """Note that a connection waits for its next head."""
        self._sending.pop(connection, None)
        if connection in self._open:
            self._waiting[connection] = None

    def receive(self, connection: Connection) -> None:
        """Note that a connection's head is complete and its body is not."""
        self._waiting.pop(connection, None)
        if connection in self._open:
            self._sending[connection] = None

    def work(self, connection: Connection) -> None:
        """Note that a connection's request is complete."""
        self._sending.pop(connection, None)

    def remove(self, connection: Connection) -> None:
        """Forget a connection that is closed."""
        self._open.discard(connection)
        self._waiting.pop(connection, None)
        self._sending.pop(connection, None)


def allowed_connections(requested: int) -> int:
    """Return how many connections the limit of descriptors leaves room for, at most `requested`."""
    limit = descriptor_limit()
    return requested if limit is None else min(requested, max(limit - RESERVED, limit // 2))
