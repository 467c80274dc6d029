"""Which other web sites' scripts may call the service (CORS, the Fetch standard).

None of them, unless origins are named. A named one may do what its key allows, as if it were the
service's own page. `*` lets every site read from a service that is open to everyone anyway, without
keys; to write, a site must be named. Cookies do not matter: there are none.
"""

import re
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.responses import Response

from base.errors import UsageError

ANY = "*"
ORIGIN = re.compile(r"https?://([a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])(:[1-9][0-9]{0,4})?")
METHODS = "GET, HEAD, POST, DELETE"
SENT = (
    "Accept, Authorization, Content-Type, Inference-Header-Content-Length, X-API-Key, X-Request-ID"
)
SHOWN = (
    "Inference-Header-Content-Length, Lookalike-Encoder, Retry-After, Server-Timing, X-Error-Type, "
    "X-Request-ID"
)
REMEMBERED = "600"  # seconds


@dataclass(frozen=True, slots=True)
class Origins:
    """The origins of the setting."""

    named: frozenset[str] = frozenset()
    any_may_read: bool = False

    @property
    def empty(self) -> bool:
        """Whether no other site may do anything."""
        return not self.named and not self.any_may_read

    def may_write(self, origin: str | None) -> bool:
        """Whether a site may change things."""
        return origin in self.named

    def may_read(self, origin: str | None) -> bool:
        """Whether a site may see answers."""
        return origin is not None and (self.any_may_read or origin in self.named)

    def headers(self, origin: str | None) -> dict[str, str]:
        """Return what to add to an answer, so that the browser shows it to the site."""
        if self.empty:
            return {}
        if not self.may_read(origin):
            return {"Vary": "Origin"}  # a cache must not give this answer to another site
        assert origin is not None
        return {
            "Vary": "Origin",
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Expose-Headers": SHOWN,
        }

    def preflight(self, method: str, headers: Headers) -> Response | None:
        """Return the answer to a browser that asks before it sends; None to any other request."""
        requested = "access-control-request-method" in headers
        if method != "OPTIONS" or not requested or not self.may_read(headers.get("origin")):
            return None
        allowed = {
            "Access-Control-Allow-Methods": METHODS,
            "Access-Control-Allow-Headers": SENT,
            "Access-Control-Max-Age": REMEMBERED,
        }
        return Response(status_code=204, headers=allowed)


def read_origins(text: str) -> Origins:
    """Return the origins of a setting, separated by commas.

    Raises:
        UsageError: one of them is not an origin.
    """
    origins = {entry.strip().lower() for entry in text.split(",") if entry.strip()}
    for origin in origins - {ANY}:
        if not ORIGIN.fullmatch(origin):
            raise UsageError(
                f"cors_origins has {origin!r}: give scheme, host and port as the browser does, "
                "without a path, such as https://www.example.com or http://localhost:5173"
            )
    named = {_without_default_port(origin) for origin in origins - {ANY}}
    return Origins(frozenset(named), any_may_read=ANY in origins)


def _without_default_port(origin: str) -> str:
    """Return an origin as browsers write it."""
    scheme = origin.partition(":")[0]
    return origin.removesuffix({"http": ":80", "https": ":443"}[scheme])
