"""/items: the collection's items, one by one and in pages.

A key may hold any sign, slashes too. In a path it is best percent-encoded whole (`a%2Fb.jpg`);
slashes may stand as they are unless the key's own last segment is `similar` or `thumbnail`.
"""

import hashlib
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote_to_bytes

from starlette.requests import Request
from starlette.responses import Response

from serving.collection import AnyCollection, KeyUnknown, Record
from serving.http.engine.collection_access import CollectionAccess
from serving.http.engine.runtime import Runtime
from serving.http.engine.thumbnails import MEDIA_TYPE
from serving.http.json_text import json_bytes, json_response
from serving.http.request.errors import malformed, unknown_key
from serving.http.request.request_body import read_body
from serving.http.routes.answers import item_json
from serving.http.routes.fields import (
    ItemFields,
    ListFields,
    SimilarFields,
    ThumbnailFields,
    limits_of_collection,
)
from serving.http.routes.queries import search_options, similar
from serving.http.routes.writing import best_effort, write

VIEWS = (b"similar", b"thumbnail")
MAX_PAGE_BYTES = 8 * 2**20  # an item more may come on top
READ_AT_ONCE = 100


async def list_items(runtime: Runtime, request: Request) -> Response:
    """Return a page of items in the order of their keys, or a random sample of them."""
    access = runtime.collection
    collection = access.current
    fields = ListFields.read((await read_body(request, runtime.settings)).fields)

    def read() -> dict[str, Any]:
        if fields.sample:
            items = collection.sample(fields.sample)
            return {"count": len(collection), "items": [item_json(item) for item in items]}
        page, more = _page(collection, fields.after, fields.limit)
        return {
            "count": len(collection),
            "items": page,
            "next": page[-1]["key"] if more else None,
        }

    return json_response(await access.read(read))


def _page(
    collection: AnyCollection, after: str | None, limit: int
) -> tuple[list[dict[str, Any]], bool]:
    """Return a page of items, fewer than `limit` where they are large, and if more may follow."""
    page: list[dict[str, Any]] = []
    size = 0
    while len(page) < limit:
        count = min(READ_AT_ONCE, limit - len(page))
        items = collection.items(after=after, limit=count)
        for item in items:
            page.append(item_json(item))
            size += len(json_bytes(page[-1]))
            if size >= MAX_PAGE_BYTES:
                return page, True
        if len(items) < count:
            return page, False
        after = items[-1].key
    return page, True


async def one_item(runtime: Runtime, request: Request) -> Response:
    """GET, DELETE /items/{key} and GET of its views; `request` is for anything under /items/."""
    key, view = split_path(request.scope["raw_path"])
    if request.method == "DELETE":
        return await _delete(runtime, key)
    values = (await read_body(request, runtime.settings)).fields
    if view == "similar":
        fields = SimilarFields.read(values, limits_of_collection(runtime))
        return await similar(runtime, key, search_options(fields, runtime.settings.max_neighbours))
    if view == "thumbnail":
        size = ThumbnailFields.read(values).size
        return await _thumbnail(runtime.collection, request, key, size)
    with_vector = ItemFields.read(values).vector
    return json_response(item_json(await _get(runtime.collection, key), with_vector=with_vector))


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


async def _get(access: CollectionAccess, key: str) -> Record:
    item = await access.get(key)
    if item is None:
        raise KeyUnknown(key)
    return item


async def _delete(runtime: Runtime, key: str) -> Response:
    access = runtime.collection
    item = await _get(access, key)
    removed = await write(runtime, access.current.remove, [key])
    if not removed:
        raise KeyUnknown(key)
    with best_effort(f"removing the thumbnail of {key!r}"):
        await access.read(access.thumbnails.forget, item)
    return json_response({"removed": removed})


async def _thumbnail(access: CollectionAccess, request: Request, key: str, size: int) -> Response:
    image = await access.thumbnail(await _get(access, key), size)
    tag = f'"{hashlib.sha256(image).hexdigest()[:24]}"'
    headers = {"ETag": tag, "Cache-Control": "private, max-age=300"}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(image, headers=headers, media_type=MEDIA_TYPE)
