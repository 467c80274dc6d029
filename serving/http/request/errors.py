"""The refusals of requests: one shape for all of them, each with the right status.

    {"error": {"type": "too-many-neighbours", "message": "k is 5000: …", "param": "k"}}

`type` is stable and made for programs, `message` names the value and the remedy, `param` names
the field (`images[2]`, `k`, a header) or is null. Where single images of a batch were refused,
`errors` beside it lists them with their `index`. Under /v2 a refusal is what that protocol has it:
`{"error": "k is 5000: …"}`, its type in the header alone.

An image's own reasons (`base.errors.RefusalReason`) are types here under the same names.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

from base.errors import ArtifactError, ImageRefused, LookalikeError, RefusalReason, UsageError
from serving.collection.contract.errors import (
    CollectionBusy,
    CollectionRebuilt,
    CollectionReplaced,
    KeyExists,
    KeyUnknown,
)
from serving.http.json_text import json_response, show

TOO_LARGE = {RefusalReason.TOO_MANY_BYTES, RefusalReason.TOO_MANY_PIXELS}
ERROR_TYPE_HEADER = "X-Error-Type"  # for logs of proxies, and to tell our refusals from others'
CLIENT_GONE = 499  # nginx's number: the client closed the connection before the answer
MAX_PARAM = 100  # characters: a name that the client chose may have any number
MAX_MESSAGE = 1000
PLAIN_ERRORS = "/v2"  # the open inference protocol


class HttpError(Exception):
    """An answer other than the requested one.

    Attributes:
        status: the HTTP status.
        type: a stable name, made for programs.
        message: what was wrong, with the value and the remedy.
        param: the field that was wrong, or None.
        headers: to be sent along.
        items: refusals of single images of a batch.
    """

    def __init__(
        self,
        status: int,
        type: str,  # noqa: A002 - the name it has in the answer
        message: str,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        items: Sequence[dict[str, Any]] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.type = type
        self.message = message
        self.param = param if param is None else param[:MAX_PARAM]
        self.headers = dict(headers or {})
        self.items = list(items)

    def body(self) -> dict[str, Any]:
        """Return the answer's JSON."""
        error = {"type": self.type, "message": self.message, "param": self.param}
        return {"error": error, "errors": self.items} if self.items else {"error": error}

    def plain_body(self) -> dict[str, Any]:
        """Return the answer's JSON in the open inference protocol, where an error is a text."""
        named = self.param is None or self.param in self.message
        return {"error": self.message if named else f"{self.param}: {self.message}"}

    def response(self, path: str = "") -> Response:
        """Return the answer to a request for a path."""
        headers = {**self.headers, ERROR_TYPE_HEADER: self.type}
        plain = path == PLAIN_ERRORS or path.startswith(f"{PLAIN_ERRORS}/")
        return json_response(self.plain_body() if plain else self.body(), self.status, headers)


def invalid(param: str | None, message: str) -> HttpError:
    """Return the refusal of a field whose value cannot be used: 422."""
    return HttpError(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid-parameter", message, param=param)


def malformed(what: str, message: str, param: str | None = None) -> HttpError:
    """Return the refusal of a body that is not what its media type says: 400."""
    return HttpError(HTTPStatus.BAD_REQUEST, f"malformed-{what}", message, param=param)


def of_image(refused: ImageRefused, param: str) -> HttpError:
    """Return the refusal of one image: 413 where it is too large, else 422."""
    large = refused.reason in TOO_LARGE
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE if large else HTTPStatus.UNPROCESSABLE_ENTITY
    return HttpError(status, refused.reason.value, refused.message, param=param)


def of_library(error: LookalikeError) -> HttpError | None:
    """Return the refusal that fits a room's exception; None for a fault of the service."""
    match error:
        case KeyExists():
            message = (
                f"{', '.join(map(show, error.keys[:5]))}: in the collection already; "
                'delete first, or send on_duplicate="replace"'
            )
            return HttpError(HTTPStatus.CONFLICT, "key-exists", message, param="key")
        case KeyUnknown():
            return unknown_key(error.key)
        case CollectionBusy():
            return HttpError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "collection-busy",
                "another process is writing to the collection: try again",
                headers={"Retry-After": "1"},
            )
        case CollectionRebuilt():
            return HttpError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "collection-rebuilt",
                "the folder of the collection was replaced: start the service again"
                if isinstance(error, CollectionReplaced)
                else "the collection was rebuilt with another encoder: start the service with that "
                "one",
            )
        case UsageError() if not isinstance(error, ArtifactError):
            return invalid(error.param, str(error)[:MAX_MESSAGE])
        case _:  # a damaged collection, a disk that fails
            return None


def unknown_key(key: str) -> HttpError:
    """Return the refusal of a key that no item has: 404."""
    message = f"no item with the key {show(key)} in the collection"
    return HttpError(HTTPStatus.NOT_FOUND, "unknown-key", message, param="key")


def no_collection() -> HttpError:
    """Return the refusal of searches and items where there is no collection: 404."""
    message = "this service has no collection, it only embeds: start it with one to search"
    return HttpError(HTTPStatus.NOT_FOUND, "no-collection", message)


def overloaded(seconds: int) -> HttpError:
    """Return the refusal of an image that would wait too long: 429, with the seconds to wait."""
    return HttpError(
        HTTPStatus.TOO_MANY_REQUESTS,
        "overloaded",
        f"too many images are waiting: try again in {seconds} s",
        headers={"Retry-After": str(seconds)},
    )


def out_of_memory() -> HttpError:
    """Return the refusal of a request for which the system gives no memory: 503."""
    message = "the service has no memory left for this request: try again in 5 s"
    headers = {"Retry-After": "5"}
    return HttpError(HTTPStatus.SERVICE_UNAVAILABLE, "out-of-memory", message, headers=headers)


def internal(request_id: str) -> HttpError:
    """Return the answer to a fault of the service: 500. The log has the rest under the same id."""
    message = f"a fault of the service; its log tells more under request {request_id}"
    return HttpError(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", message)
