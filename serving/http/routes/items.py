"""/items: the collection's items, one by one and in pages.

A key may hold any sign, slashes too. In a path it is best percent-encoded whole (`a%2Fb.jpg`);
slashes may stand as they are unless the key's own last part is `similar` or `thumbnail`.
"""

import hashlib
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote_to_bytes

from starlette.requests import Request
from starlette.responses import Response

from serving.collection import KeyUnknown, Record
from serving.http.engine.engine import Engine
from serving.http.engine.thumbnails import MEDIA_TYPE
from serving.http.json_text import json_response
from serving.http.request.errors import HttpError, malformed, unknown_key
from serving.http.request.form_fields import Fields
from serving.http.request.request_body import read_body
from serving.http.routes.answers import item_json
from serving.http.routes.queries import SEARCH_FIELDS, read_wanted, similar

DEFAULT_PAGE, LARGEST_PAGE, LARGEST_SAMPLE = 100, 1000, 100
LIST_FIELDS = ("limit", "after", "sample")
VIEWS = (b"similar", b"thumbnail")


async def list_items(engine: Engine, request: Request) -> Response:
    """Return a page of items in the order of their keys, or a random sample of them."""
    collection = engine.collection
    fields = Fields((await read_body(request, engine.settings)).fields, LIST_FIELDS)
    wanted = fields.integer("sample", 0, 1, LARGEST_SAMPLE)
    limit = fields.integer("limit", DEFAULT_PAGE, 1, LARGEST_PAGE)
    after = fields.text("after")

    def read() -> dict[str, Any]:
        if wanted:
            items = collection.sample(wanted)
            return {"count": len(collection), "items": [item_json(item) for item in items]}
        items = collection.items(after=after, limit=limit)
        return {
            "count": len(collection),
            "items": [item_json(item) for item in items],
            "next": items[-1].key if len(items) == limit else None,
        }

    return json_response(await engine.in_reader(read))


async def one_item(engine: Engine, request: Request) -> Response:
    """GET, DELETE /items/{key} and GET of its views; `request` is for anything under /items/."""
    key, view = split_path(request.scope["raw_path"])
    if request.method == "DELETE" and not view:
        return await _delete(engine, key)
    if request.method == "DELETE":
        raise HttpError(
            HTTPStatus.METHOD_NOT_ALLOWED,
            "method-not-allowed",
            f"{view} does not take DELETE: delete the item",
            headers={"Allow": "GET, HEAD"},
        )
    known = {"": ("vector",), "similar": SEARCH_FIELDS, "thumbnail": ("size",)}[view]
    fields = Fields((await read_body(request, engine.settings)).fields, known)
    if view == "similar":
        return await similar(engine, key, read_wanted(fields, engine))
    item = await _get(engine, key)
    if view == "thumbnail":
        return await _thumbnail(engine, request, item, fields.integer("size", 192, 1, 4096))
    return json_response(item_json(item, with_vector=fields.flag("vector")))


def split_path(raw_path: bytes) -> tuple[str, str]:
    """Return the key and the view (`similar`, `thumbnail` or empty) of a raw path under /items/.

    Raises:
        HttpError: the key is empty or not UTF-8.
    """
    rest = raw_path.partition(b"?")[0].partition(b"/items/")[2]
    head, slash, tail = rest.rpartition(b"/")
    encoded, view = (head, tail.decode()) if slash and head and tail in VIEWS else (rest, "")
    try:
        key = unquote_to_bytes(encoded).decode()
    except UnicodeDecodeError as error:
        raise malformed("key", "the key in the path is not UTF-8", "key") from error
    if not key:
        raise unknown_key(key)
    return key, view


async def _get(engine: Engine, key: str) -> Record:
    item = await engine.in_reader(engine.collection.get, key)
    if item is None:
        raise KeyUnknown(key)
    return item


async def _delete(engine: Engine, key: str) -> Response:
    item = await _get(engine, key)
    removed = await engine.in_writer(engine.collection.remove, [key])
    if not removed:
        raise KeyUnknown(key)
    await engine.in_reader(engine.thumbnails.forget, item)
    return json_response({"removed": removed})


async def _thumbnail(engine: Engine, request: Request, item: Record, size: int) -> Response:
    image = await engine.in_core(engine.thumbnails.of, item, size)
    tag = f'"{hashlib.sha256(image).hexdigest()[:24]}"'
    headers = {"ETag": tag, "Cache-Control": "private, max-age=300"}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(image, headers=headers, media_type=MEDIA_TYPE)
