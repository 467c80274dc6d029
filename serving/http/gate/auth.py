"""Who may do what.

With keys: a read key embeds and searches, a write key adds and deletes too; a client sends one as
`Authorization: Bearer KEY` or `X-API-Key: KEY`. The page itself (no data in it), the description
of the API and the probes are open. A metrics key reads /metrics and nothing else.

Without keys: only connections over this machine's loopback are served, whatever address the
service listens on, and only under a loopback name, so that a web site cannot reach it through a
name it controls (DNS rebinding). A proxy on this machine would open the service to all who reach
the proxy: requests that show one are refused. `insecure` lifts all of it.

Always: a browser may change things only from the service's own page, or from a site that the
service names (`cors`).
"""

import hmac
import ipaddress
from collections.abc import Sequence
from enum import Enum
from functools import lru_cache
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

from serving.http.json_text import show
from serving.http.policy.settings import Settings
from serving.http.request.errors import HttpError

OPEN_PATHS = frozenset(
    (
        *("/", "/favicon.ico", "/docs.json", "/openapi.json"),
        *("/livez", "/readyz", "/healthz", "/health"),
    )
)
OPEN_HEALTH = "/v2/health/"
METRICS = "/metrics"
OPEN_PREFIX = "/web/"
SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS"))
READING_POSTS = frozenset(("/embed", "/search", "/v1/embeddings", "/v2/repository/index"))
INFERENCE = ("/v2/models/", "/infer")
# What proxies add, besides all names that begin with X-Forwarded-.
FORWARDING = ("forwarded", "via", "x-real-ip", "x-client-ip", "true-client-ip", "cf-connecting-ip")
FORWARDING_PREFIX = "x-forwarded-"
REMEDY = "set LOOKALIKE_API_KEY (lookalike serve --api-key-file), or --insecure if all may use it"


class Need(Enum):
    """What a request needs."""

    NOTHING = 0
    READ = 1
    WRITE = 2


def need_of(method: str, path: str) -> Need:
    """Return what a request needs; anything unknown needs the most."""
    if method in SAFE_METHODS:
        opened = path in OPEN_PATHS or path.startswith((OPEN_PREFIX, OPEN_HEALTH))
        return Need.NOTHING if opened else Need.READ
    reading = path in READING_POSTS or (
        path.startswith(INFERENCE[0]) and path.endswith(INFERENCE[1])
    )
    return Need.READ if method == "POST" and reading else Need.WRITE


def check(scope: Scope, headers: Headers, settings: Settings) -> None:
    """Let a request pass, or raise its HttpError: 401 or 403."""
    need = need_of(scope["method"], scope["path"])
    keys = settings.read_keys
    if scope["path"] == METRICS and need is Need.READ:
        need = Need.NOTHING if settings.open_metrics else need
        keys += settings.metrics_keys
    if settings.has_keys:
        _check_key(headers, settings.write_keys, keys, need)
    elif not settings.insecure and need is not Need.NOTHING:
        _check_loopback(scope, headers)
        _check_no_proxy(scope, headers, settings)
    if scope["method"] not in SAFE_METHODS:
        _check_site(headers, settings)


@lru_cache  # every request asks, mostly for the same few
def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this machine's own."""
    host = host.strip("[]").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def _check_key(
    headers: Headers, write_keys: Sequence[str], read_keys: Sequence[str], need: Need
) -> None:
    if need is Need.NOTHING:
        return
    sent = _sent_key(headers)
    # Every key is compared, each in constant time: time tells nothing about any of them.
    writes = [hmac.compare_digest(sent, key.encode()) for key in write_keys]
    reads = [hmac.compare_digest(sent, key.encode()) for key in read_keys]
    if any(writes) or (any(reads) and need is Need.READ):
        return
    if any(reads):
        message = "this key may search, not add or delete: use a write key"
        raise HttpError(HTTPStatus.FORBIDDEN, "forbidden", message)
    what = "this API key is not known" if sent else "an API key is needed"
    raise HttpError(
        HTTPStatus.UNAUTHORIZED,
        "unauthorized",
        f"{what}: send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'",
        headers={"WWW-Authenticate": "Bearer"},
    )


def _sent_key(headers: Headers) -> bytes:
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    key = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "").strip()
    return key.encode("latin-1", errors="replace")


def _check_loopback(scope: Scope, headers: Headers) -> None:
    server = scope.get("server")
    if server and server[1] is not None and not is_loopback(server[0]):
        message = f"without an API key only this machine itself is served: {REMEDY}"
        raise HttpError(HTTPStatus.FORBIDDEN, "no-api-key", message)
    host = headers.get("host", "")
    if not is_loopback(_name_of(host)):
        message = (
            f"without an API key only the host localhost is served, not {show(host)}: {REMEDY}"
        )
        raise HttpError(HTTPStatus.FORBIDDEN, "foreign-host", message, param="Host")


def _check_no_proxy(scope: Scope, headers: Headers, settings: Settings) -> None:
    """Refuse what a proxy sends for others: it comes over loopback, often as `Host: localhost`."""
    origin = headers.get("origin")
    if sign := next(filter(_is_forwarding, headers), None):
        what = f"the header {show(sign)} is of a proxy"
    elif scope.get("http_version") == "1.0":  # nginx's default, which adds no header
        what = "HTTP/1.0 is of a proxy"
    elif _is_outer_page(origin, headers.get("sec-fetch-site")) and not settings.origins.may_write(
        origin
    ):
        what = f"the page of {show(origin)} is another name of this service, behind a proxy"
    else:
        return
    message = f"{what}, and without an API key only this machine itself is served: {REMEDY}"
    raise HttpError(HTTPStatus.FORBIDDEN, "no-api-key", message)


def _is_forwarding(name: str) -> bool:
    return name in FORWARDING or name.startswith(FORWARDING_PREFIX)


def _is_outer_page(origin: str | None, site: str | None) -> bool:
    """Whether a browser calls another host's page the service's own."""
    outer = origin is not None and not is_loopback(_name_of(origin.partition("://")[2]))
    return outer and site == "same-origin"


def _check_site(headers: Headers, settings: Settings) -> None:
    """Refuse other web sites. Browsers name the site of a request; other programs pass."""
    if settings.origins.may_write(headers.get("origin")):
        return
    site = headers.get("sec-fetch-site")
    if site is not None:
        foreign = site not in ("same-origin", "none")
    else:
        origin = headers.get("origin")
        foreign = origin is not None and origin.partition("://")[2] != headers.get("host")
    if foreign:
        message = (
            "another web site sent this: only the service's own page, programs and the sites in "
            "LOOKALIKE_CORS_ORIGINS may. Behind a proxy, let it pass on the Host (nginx: "
            "proxy_set_header Host $http_host)"
        )
        raise HttpError(HTTPStatus.FORBIDDEN, "cross-site", message, param="Origin")


def _name_of(host: str) -> str:
    """Return the name in a Host header, without its port; empty if it is not one."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:  # "[" begins an IPv6 address that never ends
        return ""
