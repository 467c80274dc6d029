"""POST /embed and POST /search: images in, embeddings or neighbours out."""

import asyncio
import contextlib
from collections.abc import Coroutine
from http import HTTPStatus
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from serving.collection import Hit
from serving.http.answers import chosen_encoding, embeddings_answer, neighbours_answer
from serving.http.bodies import Body, read_body
from serving.http.engine import Embedded, Engine
from serving.http.errors import CLIENT_GONE, Refusal
from serving.http.fields import Fields

T = TypeVar("T")
DEFAULT_K = 10
MANY = 4  # embeddings: about a millisecond
SEARCH_FIELDS = ("k", "min_score", "filter")


async def embed(engine: Engine, request: Request) -> Response:
    """Embeds the images of a request."""
    engine.check_room()
    body = await read_body(request, engine.settings)
    fields = Fields(body.fields, ("encoding_format",))
    encoding = chosen_encoding(request.headers, fields)
    if not body.uploads:
        raise _missing("images", "there is no image in the request")
    outcomes = await while_connected(request, engine.embed(body.uploads))
    digest = engine.encoder.digest
    if len(outcomes) > MANY:  # thousands of numbers as text would hold up all other requests
        return await asyncio.to_thread(embeddings_answer, outcomes, encoding, digest)
    return embeddings_answer(outcomes, encoding, digest)


async def search(engine: Engine, request: Request) -> Response:
    """Finds the neighbours of an image, a vector or an item."""
    collection = engine.collection
    body = await read_body(request, engine.settings)
    fields = Fields(body.fields, ("vector", "key", *SEARCH_FIELDS))
    options = search_options(fields, engine)
    _check_single_query(body, fields)
    if key := fields.text("key"):
        return await similar(engine, key, options)
    vector = fields.vector("vector", collection.dim)
    if vector is not None:
        query: dict[str, Any] = {"vector": True}
    else:
        vector, query = await _image_query(engine, request, body)
    hits = await engine.search(vector, **options)
    return neighbours_answer(hits, engine.encoder.digest, query)


async def similar(engine: Engine, key: str, options: dict[str, Any]) -> Response:
    """Finds the neighbours of an item by its stored vector, without the item itself."""
    collection = engine.collection

    def find() -> list[Hit]:
        return collection.similar(key, **options)

    hits = await engine.in_reader(find)
    return neighbours_answer(hits, engine.encoder.digest, {"key": key})


def search_options(fields: Fields, engine: Engine) -> dict[str, Any]:
    """`k`, `min_score` and `filter`, checked."""
    return {
        "k": fields.integer("k", DEFAULT_K, 1, engine.settings.max_neighbours),
        "min_score": fields.number("min_score", -1, 1),
        "filter": fields.json_object("filter"),
    }


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Does the work of a request whose body has been read; gives it up when the client goes."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Refusal(CLIENT_GONE, "client-gone", "the client closed the connection")
    finally:
        for one in (task, gone):
            one.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await one


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _check_single_query(body: Body, fields: Fields) -> None:
    given = ["image"] * len(body.uploads)
    given += [name for name in ("vector", "key") if name in fields]
    if not given:
        raise _missing("image", "there is nothing to search for: send an image, a vector or a key")
    if len(given) > 1:
        raise Refusal(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "several-queries",
            f"{' and '.join(given[:3])}: send one image, one vector or one key",
            param=given[1],
        )


async def _image_query(
    engine: Engine, request: Request, body: Body
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    (outcome,) = await while_connected(request, engine.embed(body.uploads))
    if isinstance(outcome, Refusal):
        raise outcome
    check_direction(outcome, body.uploads[0].param)
    return outcome.vector, {"width": outcome.width, "height": outcome.height}


def check_direction(embedded: Embedded, param: str) -> None:
    """Refuses an image whose embedding is zero: nothing is similar to it."""
    if not np.isfinite(embedded.vector).all() or not embedded.vector.any():
        raise Refusal(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "no-embedding",
            "the encoder sees nothing in this image, so nothing is similar to it",
            param=param,
        )


def _missing(param: str, message: str) -> Refusal:
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    return Refusal(status, f"missing-{param.removesuffix('s')}", message, param=param)
