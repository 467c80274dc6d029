"""One line of JSON on standard error for each request, where `LOOKALIKE_ACCESS_LOG=1` asks for it.

    {"time": "2026-01-31T12:00:00.123Z", "id": "5f0c…", "method": "POST", "route": "/embed",
     "status": 200, "ms": 21.4, "client": "127.0.0.1", "refused": null,
     "timing": "queue;dur=0.1, decode;dur=2.9, inference;dur=17.8"}

The route is a template: keys of items, queries and headers are nobody's business in a log.
"""

import datetime as dt
import logging
import sys
from collections.abc import Mapping

from starlette.types import Scope

from serving.http.json_text import json_bytes
from serving.http.telemetry import timing
from serving.http.telemetry.metrics import method_of, route_of

logger = logging.getLogger("lookalike.access")


def switch_on() -> None:
    """Write the lines to standard error, whatever is configured for other logs."""
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def write(
    scope: Scope, status: int, seconds: float, refused: str | None, account: Mapping[str, float]
) -> None:
    """Write the line of an answered request; costs next to nothing where it is off."""
    if not logger.isEnabledFor(logging.INFO):
        return
    now = dt.datetime.now(tz=dt.UTC).isoformat(timespec="milliseconds")
    client = scope.get("client")
    content = {
        "time": now.replace("+00:00", "Z"),
        "id": scope["lookalike.id"],
        "method": method_of(scope["method"]),
        "route": route_of(scope["path"]),
        "status": status,
        "ms": round(1e3 * seconds, 1),
        "client": client[0] if client else None,
        "refused": refused,
        "timing": timing.header(account),
    }
    logger.info(json_bytes(content).decode())
