"""The ASGI middleware that every request passes: keys, time, headers, one shape for refusals.

BentoML and Starlette answer what they refuse themselves (405, 404, an unready probe) in shapes of
their own; the gate replaces those answers. An exception that left a middleware would hang the
connection until BentoML's timeout, so none does.
"""

import asyncio
import itertools
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from base.errors import LookalikeError
from serving.http.engine.batcher import Overloaded
from serving.http.engine.lifecycle import Lifecycle
from serving.http.gate import auth
from serving.http.gate.item_paths import routed
from serving.http.gate.protocol import unread
from serving.http.gate.redirects import relative_location
from serving.http.json_text import show
from serving.http.request import in_flight
from serving.http.request.errors import (
    ERROR_TYPE_HEADER,
    HttpError,
    internal,
    of_library,
    out_of_memory,
    overloaded,
)
from serving.http.telemetry import access_log, timing

logger = logging.getLogger(__name__)

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}
RawHeaders = list[tuple[bytes, bytes]]
DEFAULTS: RawHeaders = Headers(HEADERS).raw
FOREIGN_TYPES = {
    HTTPStatus.NOT_FOUND: "not-found",
    HTTPStatus.METHOD_NOT_ALLOWED: "method-not-allowed",
    HTTPStatus.SERVICE_UNAVAILABLE: "not-ready",
}
ENCODER_HEADER = "Lookalike-Encoder"
EMBEDDING_ROUTES = ("/embed", "/v1/embeddings")
PICKLE = "application/vnd.bentoml+pickle"
REQUEST_ID = "X-Request-ID"
MAX_ID_CHARACTERS = 64

Handler = Callable[[Request], Awaitable[Response]]


def answering(handler: Handler) -> Handler:
    """Return the handler with whatever it raises turned into an answer."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except Exception as error:  # noqa: BLE001 - logged in `refusal_of` if it is a fault
            return refusal_of(error, request.scope).response(request.scope["path"])

    return answer


def refusal_of(error: Exception, scope: Scope) -> HttpError:
    """Return the refusal that fits an exception; a fault of the service is logged and hidden."""
    match error:
        case HttpError():
            return error
        case Overloaded():
            return overloaded(error.retry_after)
        case LookalikeError() if refusal := of_library(error):
            return refusal
        case MemoryError():
            logger.error("%s %s was refused: no memory is left", scope["method"], scope["path"])
            return out_of_memory()
        case _:
            request_id = scope.get("lookalike.id", "unknown")
            logger.error(
                "request %s: %s %s failed",
                request_id,
                scope["method"],
                scope["path"],
                exc_info=error,
            )
            return internal(request_id)


class Gate:
    """The middleware.

    Args:
        app: what lies behind it.
        lifecycle: the service's.
        posts: by path, what answers a POST at once. BentoML's way from here to its API costs as
            much time as all the service's own work on the event loop for one image.
    """

    def __init__(
        self, app: ASGIApp, lifecycle: Lifecycle, posts: Mapping[str, Handler] | None = None
    ) -> None:
        self.app = app
        self.lifecycle = lifecycle
        self._posts = {path: answering(handler) for path, handler in (posts or {}).items()}
        self._run, self._numbers = secrets.token_hex(4), itertools.count()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        scope["lookalike.id"] = _client_id(headers) or f"{self._run}{next(self._numbers):08x}"
        runtime = self.lifecycle.runtime
        origins = runtime.settings.origins
        passage = _Passage(scope, send, timing.begin(), origins.headers(headers.get("origin")))
        passage.encoder = runtime.encoder.digest
        share = runtime.bytes_in_flight.open()
        scope[in_flight.KEY] = share
        started = time.perf_counter()
        try:
            if preflight := origins.preflight(scope["method"], headers):
                await preflight(scope, receive, passage.send)
                return
            auth.check(scope, headers, runtime.settings)
            _refuse_pickle(headers)
            if _embeds(scope):  # here, before routing: under overload most work is refusing
                runtime.embedder.check_room()
            async with asyncio.timeout(runtime.settings.request_seconds):
                await self._answer(scope, receive, passage.send)
        except Exception as error:  # noqa: BLE001 - see the module's docstring
            refusal = _too_slow() if isinstance(error, TimeoutError) else refusal_of(error, scope)
            if not passage.started:  # else there is only the log left
                await refusal.response(scope["path"])(scope, receive, passage.send)
        finally:
            share.close()
            self._note(scope, passage, time.perf_counter() - started)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        handler = self._posts.get(scope["path"]) if scope["method"] == "POST" else None
        if handler is None:
            await self.app(routed(scope), receive, send)
            return
        response = await handler(Request(scope, receive, send))
        await response(scope, receive, send)

    def _note(self, scope: Scope, passage: "_Passage", seconds: float) -> None:
        metrics = self.lifecycle.runtime.metrics
        metrics.note_request(scope["method"], scope["path"], passage.status, seconds)
        if passage.error_type:
            metrics.refused.add(type=passage.error_type)
        access_log.write(scope, passage.status, seconds, passage.error_type, passage.seconds)


class _Passage:
    """One answer on its way out: headers are added, foreign refusals replaced."""

    def __init__(
        self, scope: Scope, send: Send, seconds: dict[str, float], cors: dict[str, str]
    ) -> None:
        self.scope = scope
        self.cors = cors
        self.encoder = ""
        self.seconds = seconds
        self.started = False
        self.status = 0
        self.error_type: str | None = None
        self._send = send
        self._replaced = False

    async def send(self, message: Message) -> None:
        """Send one message of the answer."""
        if message["type"] == "http.response.start":
            await self._start(message)
        elif not self._replaced:
            await self._send(message)

    async def _start(self, message: Message) -> None:
        headers = MutableHeaders(raw=list(message["headers"]))
        self.status = message["status"]
        self.error_type = headers.get(ERROR_TYPE_HEADER)
        if self.status >= HTTPStatus.BAD_REQUEST and self.error_type is None:
            await self._replace(headers)
            return
        if self.status == HTTPStatus.TEMPORARY_REDIRECT:
            headers["Location"] = relative_location(self.scope)
        await self._begin(headers)

    async def _begin(self, headers: MutableHeaders) -> None:
        self.started = True
        added = {**self.cors, REQUEST_ID: self.scope["lookalike.id"]}
        if self.encoder:
            added[ENCODER_HEADER] = self.encoder
        if unread(self.scope):
            added["Connection"] = "close"
        if spent := timing.header(self.seconds):
            added[timing.HEADER] = spent
        await self._send(
            {
                "type": "http.response.start",
                "status": self.status,
                "headers": _with_headers(headers.raw, Headers(added).raw),
            }
        )

    async def _replace(self, headers: MutableHeaders) -> None:
        """Send our own refusal instead of the one that begins; its body is swallowed."""
        refusal = _of_status(self.status, self.scope)
        if allow := headers.get("allow"):
            refusal.headers["Allow"] = allow
        response = refusal.response(self.scope["path"])
        self.status, self.error_type = refusal.status, refusal.type
        await self._begin(MutableHeaders(raw=list(response.raw_headers)))
        await self._send({"type": "http.response.body", "body": response.body})
        self._replaced = True


def _with_headers(sent: RawHeaders, added: RawHeaders) -> RawHeaders:
    """Return headers with `added` instead of those of the same name, and `HEADERS` where absent."""
    replaced = {b"server", *(name for name, _ in added)}
    kept = [*((name, value) for name, value in sent if name not in replaced), *added]
    names = {name for name, _ in kept}
    return [*kept, *(header for header in DEFAULTS if header[0] not in names)]


def _of_status(status: int, scope: Scope) -> HttpError:
    method, path = scope["method"], scope["path"]
    if status in FOREIGN_TYPES:
        error_type = FOREIGN_TYPES[HTTPStatus(status)]
        messages = {
            "not-found": f"there is no {show(path)} here: /docs.json lists the routes",
            "method-not-allowed": f"{show(path)} does not take {method}",
            "not-ready": "the service is warming up: try again in a moment",
        }
        return HttpError(status, error_type, messages[error_type])
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return internal(scope["lookalike.id"])
    return HttpError(
        status, "bad-request", f"{method} {show(path)} was refused with status {status}"
    )


def _refuse_pickle(headers: Headers) -> None:
    """BentoML refuses pickles too, but with a traceback in the log for each."""
    if PICKLE in headers.get("content-type", "").lower():
        message = "pickles are not taken: send images as they are, or base64 in JSON"
        raise HttpError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "unsupported-media-type",
            message,
            param="Content-Type",
        )


def _embeds(scope: Scope) -> bool:
    """Whether a request is there to have images embedded."""
    path: str = scope["path"]
    embedding = path in EMBEDDING_ROUTES or (path.startswith("/v2/") and path.endswith("/infer"))
    return embedding and scope["method"] == "POST"


def _client_id(headers: Headers) -> str | None:
    """Return the client's own id of the request, if it is one word."""
    sent = headers.get(REQUEST_ID, "")
    usable = sent.isascii() and sent.replace("-", "").replace("_", "").isalnum()
    return sent if usable and len(sent) <= MAX_ID_CHARACTERS else None


def _too_slow() -> HttpError:
    message = "the request took too long and was given up: try again, or send fewer images"
    headers = {"Retry-After": "5"}
    return HttpError(HTTPStatus.SERVICE_UNAVAILABLE, "timeout", message, headers=headers)
