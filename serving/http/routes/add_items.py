"""POST /items: adding to the collection, by image or by vector.

One item comes as a form or a raw image with its key beside it; several images of one form take
their file names as keys; a JSON list gives each item its own fields. All of a request is added, or
nothing.
"""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from serving.collection import OnDuplicate, Record
from serving.collection.contract.keys import UNREACHABLE
from serving.collection.contract.records import metadata_text
from serving.http.engine.collection_access import CollectionAccess
from serving.http.engine.embedding import EmbeddedUpload
from serving.http.engine.runtime import Runtime
from serving.http.json_text import json_response, show
from serving.http.request.errors import HttpError, invalid
from serving.http.request.fields import Limits
from serving.http.request.parsing import parsed
from serving.http.request.request_body import Body, read_body
from serving.http.request.uploads import Upload, decode_upload
from serving.http.routes.answers import whole_refusal
from serving.http.routes.fields import (
    AddFields,
    AddListFields,
    JsonItemFields,
    NewItemFields,
    limits_of_collection,
    unusable_items,
)
from serving.http.routes.queries import check_direction, fetched, while_connected
from serving.http.routes.writing import best_effort, write

Requested = tuple[Record, Upload | None]
"""An item and the image it is to be embedded from; with an image, the vector is still empty."""


async def add_items(runtime: Runtime, request: Request) -> Response:
    """Add items: all of a request, or none if one of its images or keys is refused."""
    limits = limits_of_collection(runtime)
    body = await read_body(request, runtime.settings)
    requested, on_duplicate = await parsed(body.size, _read_items, body, limits)
    uploads = await fetched(
        runtime.fetcher, request, [upload for _, upload in requested if upload is not None]
    )
    outcomes = await while_connected(request, runtime.embedder.embed(uploads)) if uploads else []
    if any(isinstance(outcome, HttpError) for outcome in outcomes):
        raise whole_refusal(outcomes)
    items = _with_vectors(requested, uploads, outcomes)
    images = await while_connected(request, _to_keep(runtime.collection, items)) if uploads else {}
    records = [record for record, _ in items]
    # Once begun it is finished, even if the client goes: what is in the ledger has its thumbnail.
    answer = await asyncio.shield(
        write(runtime, _write, runtime.collection, records, images, on_duplicate)
    )
    return json_response(answer, HTTPStatus.CREATED if answer["added"] else HTTPStatus.OK)


def _read_items(body: Body, limits: Limits) -> tuple[list[Requested], OnDuplicate]:
    if "items" not in body.fields:
        one = AddFields.read(body.fields, limits)
        return _single(body, one), one.on_duplicate
    if body.uploads or not body.fields["items"]:
        raise unusable_items(body.fields["items"])
    several = AddListFields.read(body.fields, limits)
    rows = [_row(row, f"items[{number}]") for number, row in enumerate(several.items)]
    return rows, several.on_duplicate


def _single(body: Body, fields: AddFields) -> list[Requested]:
    """Return the items of a form or a raw image; several images share all fields but the key."""
    if len(body.uploads) <= 1:
        key = fields.key or next((one.filename for one in body.uploads), None)
        return [_requested(fields, key, body.uploads)]
    if fields.key is not None:
        raise invalid("key", "one key for several images: send none, their file names are taken")
    return [_requested(fields, one.filename, [one]) for one in body.uploads]


def _row(fields: JsonItemFields, param: str) -> Requested:
    """Return an item of a JSON list."""
    uploads = [] if fields.image is None else [decode_upload(fields.image, f"{param}.image")]
    try:
        return _requested(fields, fields.key, uploads)
    except HttpError as refusal:
        refusal.param = f"{param}.{refusal.param}"
        raise


def _requested(fields: NewItemFields, key: str | None, uploads: list[Upload]) -> Requested:
    if (fields.vector is None) != bool(uploads):
        raise HttpError(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "missing-image",
            "an item needs an image or a vector, one of the two",
            param="image",
        )
    if not key:
        raise invalid("key", "an item needs a key: a name that is unique in the collection")
    if key in UNREACHABLE:
        raise invalid("key", f"key is {show(key)}: no path would lead to it, choose another")
    metadata_text(fields.metadata, f"item {show(key)}")  # before the image is embedded
    record = Record(
        key=key,
        vector=() if fields.vector is None else fields.vector,
        uri=fields.uri or f"upload:{key}",
        label=fields.label,
        metadata=fields.metadata,
    )
    return record, uploads[0] if uploads else None


def _with_vectors(
    requested: Sequence[Requested],
    uploads: Sequence[Upload],
    outcomes: Sequence[EmbeddedUpload | HttpError],
) -> list[Requested]:
    """Return the same items with their images, vectors, sizes and digests."""
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
        complete = replace(
            record,
            vector=outcome.vector,
            width=outcome.width,
            height=outcome.height,
            sha256=hashlib.sha256(upload.content).hexdigest(),
        )
        items.append((complete, upload))
    return items


async def _to_keep(access: CollectionAccess, items: Sequence[Requested]) -> dict[str, bytes | None]:
    """Return the thumbnails to keep, by the items' keys."""
    sent = {
        record.key: upload.content
        for record, upload in items
        if upload is not None and isinstance(upload.content, bytes)
    }
    made = await access.thumbnails_to_keep(list(sent.values()))
    return dict(zip(sent, made, strict=True))


def _write(
    access: CollectionAccess,
    records: Sequence[Record],
    images: Mapping[str, bytes | None],
    on_duplicate: OnDuplicate,
) -> dict[str, Any]:
    collection, thumbnails = access.current, access.thumbnails
    before = [collection.get(record.key) for record in records]
    report = collection.add(records, on_duplicate)
    for old, record in zip(before, records, strict=True):
        if old is not None and old.sha256 != record.sha256:
            with best_effort(f"removing the former thumbnail of {record.key!r}"):
                thumbnails.forget(old)
        image = images.get(record.key)
        if image is not None and record.sha256:
            with best_effort(f"keeping the thumbnail of {record.key!r}"):
                thumbnails.keep(record.key, record.sha256, image)
    return {
        "added": report.added,
        "replaced": report.replaced,
        "unchanged": report.unchanged,
        "keys": [record.key for record in records],
    }
