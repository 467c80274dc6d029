"""A request's body as uploads and fields, whatever form it came in.

Accepted: multipart forms (every file is an image), a raw image, and JSON with base64 text or
data URIs. BentoML's own parsing answers 500 to a corrupt upload, opens URLs that a client names,
writes files over 1 MB to disk on the event loop and knows no limit; this reads at most
`max_body_bytes`, in memory, and refuses the rest with a 4xx.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request

from serving.http.json_text import show
from serving.http.policy.settings import Settings
from serving.http.request.errors import CLIENT_GONE, HttpError, invalid, malformed
from serving.http.request.fields import Text
from serving.http.request.in_flight import KEY as SHARE_KEY
from serving.http.request.in_flight import Share
from serving.http.request.json_bounds import VALUES_PER_IMAGE, JsonBounds, parse_bounded
from serving.http.request.multipart import MAX_FIELDS, TooManyFiles, read_form
from serving.http.request.parsing import LARGE, parsed
from serving.http.request.uploads import Upload, decode_upload

FORM = "application/x-www-form-urlencoded"
LAST_CHECK = 2**22  # bytes of a body, before it is there as a whole
MAX_ENCODED_FORM = 2 * 2**20  # bytes; where all are escaped they are unpacked to 25 times as many
IMAGE_FIELDS = ("images", "image")
IMAGE_MEMBERS = frozenset((*IMAGE_FIELDS, "input", "items", "positive", "negative"))
HINT = (
    "send an image as multipart/form-data, as image/* or application/octet-stream, "
    "or base64 in application/json"
)


@dataclass(frozen=True, slots=True)
class Body:
    """What a request carries.

    Attributes:
        uploads: images in their order.
        fields: the rest, by name.
        size: bytes of JSON that the fields came from, for `parsed`.
    """

    uploads: list[Upload]
    fields: dict[str, Any]
    size: int = 0


async def read_body(request: Request, settings: Settings) -> Body:
    """Read and parse the body, and the query's fields with it.

    Raises:
        HttpError: too large, too slow, too many images, another media type, or malformed.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    async with _in_time(request, settings):
        body = await _parse(request, media_type, settings)
    if len(body.uploads) > settings.max_images:
        raise too_many_images(len(body.uploads), settings)
    for name, value in request.query_params.multi_items():
        _set(body.fields, name, Text(value))
    return body


async def read_raw(request: Request, settings: Settings, bounds: JsonBounds | None) -> bytes:
    """Read the body as it is, whatever its media type; raises HttpError as `read_body` does.

    Args:
        request: with the body.
        settings: of the service.
        bounds: of JSON, where all of the body is.
    """
    async with _in_time(request, settings):
        return await _collected(_limited(request, settings.max_body_bytes), bounds)


@contextlib.asynccontextmanager
async def _in_time(request: Request, settings: Settings) -> AsyncGenerator[None, None]:
    """Refuse a body that is compressed, comes too slowly or ends with its connection."""
    _check_encoding(request.headers.get("content-encoding", "identity"))
    try:
        async with asyncio.timeout(settings.body_seconds):
            yield
    except TimeoutError as error:
        raise HttpError(
            HTTPStatus.REQUEST_TIMEOUT,
            "request-too-slow",
            f"the request did not arrive within {settings.body_seconds:g} s",
            headers={"Connection": "close"},
        ) from error
    except ClientDisconnect as error:
        raise HttpError(CLIENT_GONE, "client-gone", "the client closed the connection") from error


async def _parse(request: Request, media_type: str, settings: Settings) -> Body:
    stream = _limited(request, settings.max_body_bytes)
    if media_type == "multipart/form-data":
        return await _read_multipart(request, stream, settings)
    is_json = media_type == "application/json" or media_type.endswith("+json")
    content = await _collected(stream, bounds_of(settings) if is_json else None)
    if media_type.startswith("image/") or media_type == "application/octet-stream":
        return Body([Upload(content, "body")], {})
    if is_json:
        return await parsed(len(content), _from_json, content, settings)
    if media_type == FORM and not _looks_binary(content):
        return await parsed(len(content), _from_form, content, settings)
    if not content:
        return Body([], {})
    named = show(media_type) if media_type else "missing"
    raise HttpError(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        "unsupported-media-type",
        f"the Content-Type is {named}: {HINT}",
        param="Content-Type",
    )


async def _collected(stream: AsyncGenerator[bytes, None], bounds: JsonBounds | None) -> bytes:
    """Return all chunks; large JSON whose beginning holds too much already is refused unread."""
    chunks, size, check_at = [], 0, LARGE
    async for chunk in stream:
        chunks.append(chunk)
        size += len(chunk)
        if bounds is not None and check_at < size <= LAST_CHECK:
            check_at = 2 * size
            with _malformed_json():
                bounds.check(b"".join(chunks))
    return b"".join(chunks)


@contextlib.contextmanager
def _malformed_json() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise malformed("json", f"the body is not JSON: {error}") from error


async def _limited(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    """Yield the body's chunks; one announced as too large is refused unread."""
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit:
        raise body_too_large(limit)
    share: Share = request.scope[SHARE_KEY]
    share.check(int(announced) if announced.isdigit() else 0)
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        share.take(len(chunk))
        if received > limit:
            raise body_too_large(limit)
        yield chunk


async def _read_multipart(
    request: Request, stream: AsyncGenerator[bytes, None], settings: Settings
) -> Body:
    content_type = request.headers["content-type"]
    try:
        entries = await read_form(content_type, stream, max_files=settings.max_images)
    except TooManyFiles as error:
        raise too_many_images(settings.max_images + 1, settings) from error
    body = Body([], {})
    for entry in entries:
        if entry.filename is None:
            _set(body.fields, entry.name, Text(entry.text))
        elif entry.content or entry.filename:  # a browser sends an empty one for no file
            body.uploads.append(
                Upload(entry.content, f"images[{len(body.uploads)}]", entry.filename)
            )
    size = sum(len(value) for value in body.fields.values())
    return await parsed(size, _with_text_images, body, settings)


def _from_json(content: bytes, settings: Settings) -> Body:
    with _malformed_json():
        fields = parse_bounded(content, bounds_of(settings))
    if not isinstance(fields, dict):
        raise malformed("json", f"the body is {show(fields)}: send a JSON object")
    return _with_text_images(Body([], fields, size=len(content)), settings)


def _from_form(content: bytes, settings: Settings) -> Body:
    if len(content) > MAX_ENCODED_FORM:
        message = f"a form has at most {MAX_ENCODED_FORM} bytes: send multipart/form-data"
        raise HttpError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body-too-large", message)
    try:
        pairs = parse_qsl(
            content.decode(), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS
        )
    except ValueError as error:
        raise malformed("form", f"the form cannot be read: {error}") from error
    body = Body([], {})
    for name, value in pairs:
        _set(body.fields, name, Text(value))
    return _with_text_images(body, settings)


def _looks_binary(content: bytes) -> bool:
    """Whether curl's --data-binary sent an image and called it a form."""
    return b"\0" in content[:4096] or not content[:4096].isascii()


def _with_text_images(body: Body, settings: Settings) -> Body:
    """Return the body with `image` and `images` moved from the fields to the uploads."""
    for name in IMAGE_FIELDS:
        value = body.fields.pop(name, None)
        if value is None or value == "null":
            continue
        values = value if isinstance(value, list) else [value]
        if len(body.uploads) + len(values) > settings.max_images:
            raise too_many_images(len(body.uploads) + len(values), settings)
        for number, text in enumerate(values):
            param = f"{name}[{number}]" if isinstance(value, list) else name
            body.uploads.append(decode_upload(text, param))
    for name, value in body.fields.items():
        if isinstance(value, Text) and len(value) > LARGE:
            message = f"{show(name)} has {len(value)} characters: a field of a form has {LARGE}"
            raise invalid(name, f"{message}, send JSON")
    return body


def _check_encoding(encoding: str) -> None:
    """Refuse a compressed body: it could unfold to any size; images are compressed already."""
    if encoding.strip().lower() != "identity":
        raise HttpError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "unsupported-media-type",
            f"the Content-Encoding is {show(encoding)}: send the body as it is",
            param="Content-Encoding",
        )


def _set(fields: dict[str, Any], name: str, value: Text) -> None:
    if name in fields:
        raise invalid(name, f"{show(name)} is given twice: give it once")
    fields[name] = value


def body_too_large(limit: int) -> HttpError:
    """More bytes than one request may have: 413."""
    return HttpError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        "body-too-large",
        f"the request is larger than {limit} bytes: send fewer or smaller images",
    )


def too_many_images(count: int, settings: Settings) -> HttpError:
    """More images than one request may hold: 413."""
    return HttpError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        "too-many-images",
        f"{count} images or more: send at most {settings.max_images} in one request",
        param="images",
    )


def too_many_items(count: int, most: int) -> HttpError:
    """More items than one request may hold: 413."""
    return HttpError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        "too-many-items",
        f"{count} items: send at most {most} in one request",
        param="items",
    )


def too_many_examples(count: int, most: int) -> HttpError:
    """More examples than one search may have: 422."""
    return invalid("positive", f"there are {count} examples: send at most {most}")


def bounds_of(settings: Settings) -> JsonBounds:
    """Return what the JSON of a request may hold."""
    most = settings.max_images
    images = (most, lambda count: too_many_images(count, settings))
    examples = (most, lambda count: too_many_examples(count, most))
    return JsonBounds(
        values=most * VALUES_PER_IMAGE,
        images=IMAGE_MEMBERS,
        lists={
            **dict.fromkeys((*IMAGE_FIELDS, "input"), images),
            **dict.fromkeys(("positive", "negative"), examples),
            "items": (most, lambda count: too_many_items(count, most)),
        },
    )
