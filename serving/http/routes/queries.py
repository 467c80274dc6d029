"""POST /embed and POST /search: images in, embeddings or neighbors out."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from serving.collection import Hit
from serving.collection.contract.voting import VOTERS, suggestion_of
from serving.http.engine.embedding import EmbeddedUpload
from serving.http.engine.engine import Engine
from serving.http.request.errors import CLIENT_GONE, HttpError, invalid
from serving.http.request.form_fields import Fields
from serving.http.request.in_flight import KEY as SHARE_KEY
from serving.http.request.request_body import Body, Upload, read_body
from serving.http.routes.answers import (
    DTYPES,
    chosen_encoding,
    embeddings_answer,
    neighbors_answer,
)
from serving.http.routes.examples import EXAMPLE_FIELDS, Examples

T = TypeVar("T")
DEFAULT_K = 10
MANY = 4  # embeddings: about a millisecond
SEARCH_FIELDS = ("k", "min_score", "filter", "exact", "all", "suggest_label")


async def embed(engine: Engine, request: Request) -> Response:
    """Embeds the images of a request."""
    body = await read_body(request, engine.settings)
    fields = Fields(body.fields, ("encoding_format", "dtype"))
    encoding = chosen_encoding(request.headers, fields)
    dtype = fields.choice("dtype", DTYPES) or DTYPES[0]
    if not body.uploads:
        raise _missing("images", "there is no image in the request")
    uploads = await fetched(engine, request, body.uploads)
    outcomes = await while_connected(request, engine.embedder.embed(uploads))
    answer = partial(embeddings_answer, outcomes, encoding, dtype, engine.encoder.digest)
    if len(outcomes) > MANY:  # thousands of numbers as text would hold up all other requests
        return await asyncio.to_thread(answer)
    return answer()


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is wanted of a search.

    Attributes:
        options: of the collection's search.
        most: refuse more neighbors than these; None where `k` cuts them off.
        suggest: also say which labels the neighbors vote for.
    """

    options: dict[str, Any]
    most: int | None
    suggest: bool

    def answer(self, engine: Engine, hits: list[Hit], query: dict[str, Any]) -> Response:
        """Return the answer; raises HttpError where there is more than may be sent."""
        if self.most is not None and len(hits) > self.most:
            raise HttpError(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                "too-many-neighbours",
                f"more than {self.most} items are as similar as {self.options['min_score']}: "
                "raise min_score or narrow the filter",
                param="all",
            )
        suggestion = suggestion_of(hits) if self.suggest else None
        return neighbors_answer(hits, engine.encoder.digest, query, suggestion)


async def search(engine: Engine, request: Request) -> Response:
    """Find the neighbors of an image, a vector, an item, or of several examples."""
    collection = engine.collection
    body = await read_body(request, engine.settings)
    fields = Fields(body.fields, ("vector", "key", *SEARCH_FIELDS, *EXAMPLE_FIELDS))
    wanted = read_wanted(fields, engine)
    if "positive" in fields or "negative" in fields:
        return await _search_mixed(engine, request, Examples(body, fields, engine), wanted)
    _check_single_query(body, fields)
    if key := fields.text("key"):
        return await similar(engine, key, wanted)
    vector = fields.vector("vector", collection.dim)
    if vector is not None:
        query: dict[str, Any] = {"vector": True}
    else:
        vector, query = await _image_query(engine, request, body)
    return wanted.answer(engine, await engine.search(vector, **wanted.options), query)


async def similar(engine: Engine, key: str, wanted: Wanted) -> Response:
    """Find the neighbors of an item by its stored vector, without the item itself."""
    find = partial(engine.collection.similar, key, **wanted.options)
    return wanted.answer(engine, await engine.in_reader(find), {"key": key})


async def _search_mixed(
    engine: Engine, request: Request, examples: Examples, wanted: Wanted
) -> Response:
    uploads = await fetched(engine, request, examples.uploads)
    outcomes: list[EmbeddedUpload | HttpError] = []
    if uploads:
        outcomes = await while_connected(request, engine.embedder.embed(uploads))
    for outcome, upload in zip(outcomes, uploads, strict=True):
        if isinstance(outcome, EmbeddedUpload):
            check_direction(outcome, upload.param)
    positive, negative = examples.with_vectors(outcomes)
    find = partial(
        engine.collection.search_mixed,
        positive,
        negative,
        negative_weight=examples.weight,
        **wanted.options,
    )
    query = {"positive": len(positive), "negative": len(negative)}
    return wanted.answer(engine, await engine.searching(find), query)


def read_wanted(fields: Fields, engine: Engine) -> Wanted:
    """Return what all searches take (`SEARCH_FIELDS`), checked."""
    most, suggest = engine.settings.max_neighbours, fields.flag("suggest_label")
    min_score, everything = fields.number("min_score", -1, 1), fields.flag("all")
    if everything and min_score is None:
        raise invalid("min_score", "all is true: give min_score, the similarity to stop at")
    if everything and "k" in fields:
        raise invalid("k", "all is true: leave k out, or all")
    k = fields.integer("k", VOTERS if suggest else DEFAULT_K, 1, most)
    options = {
        "k": most + 1 if everything else min(k, most),
        "min_score": min_score,
        "filter": fields.json_object("filter"),
        "exact": fields.flag("exact") or everything,
    }
    return Wanted(options, most if everything else None, suggest)


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """Do the work of a request whose body has been read; gives it up when the client goes.

    The work stays in the request's own task, which is cancelled, as `asyncio.timeout` does it.
    """
    own = asyncio.current_task()
    assert own is not None
    gone = asyncio.ensure_future(_disconnected(request))
    at_work = True

    def give_up(_gone: object) -> None:
        if at_work:
            own.cancel()

    gone.add_done_callback(give_up)
    try:
        return await work
    except asyncio.CancelledError as error:
        if not gone.done():
            raise  # somebody else has cancelled it
        own.uncancel()
        raise HttpError(CLIENT_GONE, "client-gone", "the client closed the connection") from error
    finally:
        at_work = False
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def fetched(engine: Engine, request: Request, uploads: list[Upload]) -> list[Upload]:
    """Return the uploads with the images that URLs stand for, where the service fetches any.

    Before they are admitted to decoding: a slow server takes no places from other requests.
    """
    if engine.fetcher is None or not any(one.url for one in uploads):
        return uploads
    share = request.scope[SHARE_KEY]
    return await while_connected(request, engine.fetcher.fill(uploads, share))


def _check_single_query(body: Body, fields: Fields) -> None:
    given = ["image"] * len(body.uploads)
    given += [name for name in ("vector", "key") if name in fields]
    if not given:
        raise _missing("image", "there is nothing to search for: send an image, a vector or a key")
    if len(given) > 1:
        raise HttpError(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "several-queries",
            f"{' and '.join(given[:3])}: send one image, one vector or one key, "
            "or several as positive and negative",
            param=given[1],
        )


async def _image_query(
    engine: Engine, request: Request, body: Body
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    uploads = await fetched(engine, request, body.uploads)
    (outcome,) = await while_connected(request, engine.embedder.embed(uploads))
    if isinstance(outcome, HttpError):
        raise outcome
    check_direction(outcome, body.uploads[0].param)
    return outcome.vector, {"width": outcome.width, "height": outcome.height}


def check_direction(embedded: EmbeddedUpload, param: str) -> None:
    """Refuses an image whose embedding is zero: nothing is similar to it."""
    if not np.isfinite(embedded.vector).all() or not embedded.vector.any():
        raise HttpError(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "no-embedding",
            "the encoder sees nothing in this image, so nothing is similar to it",
            param=param,
        )


def _missing(param: str, message: str) -> HttpError:
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    return HttpError(status, f"missing-{param.removesuffix('s')}", message, param=param)
