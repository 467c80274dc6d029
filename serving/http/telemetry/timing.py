"""Where the time of one request went, for its `Server-Timing` header (W3C Server Timing).

`fetch` is how long images named by URL took to come, `queue` the longest wait of one of its images
for a batch, `decode` and `inference` the longest of one of them, `search` the collection's; in
milliseconds. What a request did not need is absent.
"""

from collections.abc import Mapping
from contextvars import ContextVar

HEADER = "Server-Timing"
STAGES = ("fetch", "queue", "decode", "inference", "search")

_seconds: ContextVar[dict[str, float]] = ContextVar("seconds")


def begin() -> dict[str, float]:
    """Start the account of a request; tasks made for it write to the same one."""
    account: dict[str, float] = {}
    _seconds.set(account)
    return account


def note(stage: str, seconds: float) -> None:
    """Note what one image took; outside of a request (warming up) nothing is kept."""
    account = _seconds.get({})
    account[stage] = max(account.get(stage, 0.0), seconds)


def header(account: Mapping[str, float]) -> str:
    """Return the header's value; empty where nothing was noted."""
    return ", ".join(
        f"{stage};dur={1e3 * account[stage]:.1f}" for stage in STAGES if stage in account
    )
