"""POST /items: adding to the collection, by image or by vector.

One item comes as a form or a raw image with its key beside it; several images of one form take
their file names as keys; a JSON list gives each item its own fields. All of a request is added, or
nothing.
"""

import asyncio
import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from serving.collection import OnDuplicate, Record
from serving.http.engine.embedding import EmbeddedUpload
from serving.http.engine.engine import Engine
from serving.http.json_text import json_response, show
from serving.http.request.errors import HttpError, invalid
from serving.http.request.form_fields import Fields
from serving.http.request.request_body import LINKS, Body, Upload, decode_upload, read_body
from serving.http.routes.answers import whole_refusal
from serving.http.routes.queries import check_direction, fetched, while_connected

logger = logging.getLogger(__name__)

ITEM_FIELDS = ("key", "label", "metadata", "uri", "vector")

Requested = tuple[Record, Upload | None]
"""An item and the image it is to be embedded from; with an image, the vector is still empty."""


async def add_items(engine: Engine, request: Request) -> Response:
    """Add items: all of a request, or none if one of its images or keys is refused."""
    dim = engine.collection.dim
    body = await read_body(request, engine.settings)
    on_duplicate = _on_duplicate(body)
    requested = _list_of(body, engine, dim) if "items" in body.fields else _single(body, dim)
    uploads = await fetched(
        engine, request, [upload for _, upload in requested if upload is not None]
    )
    outcomes = await while_connected(request, engine.embedder.embed(uploads)) if uploads else []
    if any(isinstance(outcome, HttpError) for outcome in outcomes):
        raise whole_refusal(outcomes)
    items = _with_vectors(requested, uploads, outcomes)
    images = await while_connected(request, _to_keep(engine, items)) if uploads else {}
    records = [record for record, _ in items]
    # Once begun it is finished, even if the client goes: what is in the ledger has its thumbnail.
    answer = await asyncio.shield(engine.in_writer(_write, engine, records, images, on_duplicate))
    return json_response(answer, HTTPStatus.CREATED if answer["added"] else HTTPStatus.OK)


def _on_duplicate(body: Body) -> OnDuplicate:
    given = {"on_duplicate": body.fields.pop("on_duplicate", None)}
    fields = Fields(given, ("on_duplicate",))
    named = fields.choice("on_duplicate", ("refuse", "replace"))
    return "replace" if named == "replace" else "refuse"


def _list_of(body: Body, engine: Engine, dim: int) -> list[Requested]:
    """Return the items of a JSON list."""
    rows = body.fields.pop("items")
    Fields(body.fields, ("items", "on_duplicate"))  # refuses what else is there
    if not isinstance(rows, list) or not rows or body.uploads:
        message = f"items is {show(rows)}: a list of items is needed, and no image beside it"
        raise invalid("items", message)
    if len(rows) > engine.settings.max_images:
        message = f"{len(rows)} items: send at most {engine.settings.max_images} in one request"
        raise HttpError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too-many-items", message, param="items"
        )
    return [_row(row, f"items[{number}]", dim) for number, row in enumerate(rows)]


def _row(row: object, param: str, dim: int) -> Requested:
    if not isinstance(row, dict):
        raise invalid(param, f"{param} is {show(row)}: an object with key and image is needed")
    try:
        fields = Fields(row, (*ITEM_FIELDS, "image"))
        uploads = [decode_upload(row["image"], f"{param}.image")] if "image" in fields else []
        return _requested(fields, fields.text("key"), dim, uploads)
    except HttpError as refusal:
        refusal.param = f"{param}.{refusal.param}"
        raise


def _single(body: Body, dim: int) -> list[Requested]:
    """Return the items of a form or a raw image; several images share all fields but the key."""
    fields = Fields(body.fields, ITEM_FIELDS)
    if len(body.uploads) <= 1:
        key = fields.text("key") or next((one.filename for one in body.uploads), None)
        return [_requested(fields, key, dim, body.uploads)]
    if "key" in fields:
        raise invalid("key", "one key for several images: send none, their file names are taken")
    return [_requested(fields, one.filename, dim, [one]) for one in body.uploads]


def _requested(fields: Fields, key: str | None, dim: int, uploads: list[Upload]) -> Requested:
    vector = fields.vector("vector", dim)
    if (vector is None) != bool(uploads):
        raise HttpError(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "missing-image",
            "an item needs an image or a vector, one of the two",
            param="image",
        )
    if not key:
        raise invalid("key", "an item needs a key: a name that is unique in the collection")
    uri = fields.text("uri") or f"upload:{key}"
    if "uri" in fields and not uri.startswith(LINKS):
        message = f"uri is {show(uri)}: only http:// and https:// links are taken, to be shown"
        raise invalid("uri", message)
    record = Record(
        key=key,
        vector=() if vector is None else vector,
        uri=uri,
        label=fields.text("label"),
        metadata=fields.json_object("metadata") or {},
    )
    return record, uploads[0] if uploads else None


def _with_vectors(
    requested: Sequence[Requested],
    uploads: Sequence[Upload],
    outcomes: Sequence[EmbeddedUpload | HttpError],
) -> list[Requested]:
    """Return the same items with their images and what was found out about them."""
    embedded = zip(uploads, outcomes, strict=True)
    items: list[Requested] = []
    for record, named in requested:
        if named is None:
            items.append((record, None))
            continue
        upload, outcome = next(embedded)
        assert isinstance(outcome, EmbeddedUpload)
        assert isinstance(upload.content, bytes)
        check_direction(outcome, upload.param)
        found = replace(
            record,
            vector=outcome.vector,
            width=outcome.width,
            height=outcome.height,
            sha256=hashlib.sha256(upload.content).hexdigest(),
        )
        items.append((found, upload))
    return items


async def _to_keep(engine: Engine, items: Sequence[Requested]) -> dict[str, bytes | None]:
    """Return the thumbnails to keep, by the items' keys."""
    sent = {
        record.key: upload.content
        for record, upload in items
        if upload is not None and isinstance(upload.content, bytes)
    }
    made = await engine.in_cores(engine.thumbnails.to_keep, list(sent.values()))
    return dict(zip(sent, made, strict=True))


def _write(
    engine: Engine,
    records: Sequence[Record],
    images: Mapping[str, bytes | None],
    on_duplicate: OnDuplicate,
) -> dict[str, Any]:
    collection, thumbnails = engine.collection, engine.thumbnails
    before = [collection.get(record.key) for record in records]
    report = collection.add(records, on_duplicate)
    for old, record in zip(before, records, strict=True):
        if old is not None and old.sha256 != record.sha256:
            thumbnails.forget(old)
    for record in records:
        picture = images.get(record.key)
        if picture is not None and record.sha256:
            try:
                thumbnails.keep(record.key, record.sha256, picture)
            except OSError:  # a full disk: the item is safe in the ledger, only its image is not
                logger.warning("the thumbnail of %r was not kept", record.key, exc_info=True)
    return {
        "added": report.added,
        "replaced": report.replaced,
        "unchanged": report.unchanged,
        "keys": [record.key for record in records],
    }
