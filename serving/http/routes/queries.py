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
from serving.http.engine.runtime import Runtime
from serving.http.request.errors import CLIENT_GONE, HttpError
from serving.http.request.fetching import Fetcher
from serving.http.request.in_flight import KEY as SHARE_KEY
from serving.http.request.request_body import Body, read_body
from serving.http.request.uploads import Upload
from serving.http.routes.answers import accepted_encoding, embeddings_answer, neighbors_answer
from serving.http.routes.examples import ExampleQuery
from serving.http.routes.fields import (
    EmbedFields,
    SearchFields,
    SimilarFields,
    limits_of_collection,
)

T = TypeVar("T")
MANY = 4  # embeddings: about a millisecond


async def embed(runtime: Runtime, request: Request) -> Response:
    """Embed the images of a request."""
    body = await read_body(request, runtime.settings)
    fields = EmbedFields.read(body.fields)
    encoding = fields.encoding_format or accepted_encoding(request.headers)
    if not body.uploads:
        raise _missing("images", "there is no image in the request")
    uploads = await fetched(runtime.fetcher, request, body.uploads)
    outcomes = await while_connected(request, runtime.embedder.embed(uploads))
    digest = runtime.encoder.digest
    answer = partial(embeddings_answer, outcomes, encoding, fields.dtype, digest)
    if len(outcomes) > MANY:  # thousands of numbers as text would hold up all other requests
        return await asyncio.to_thread(answer)
    return answer()


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How to search, and what to answer.

    Attributes:
        options: of the collection's search.
        most: refuse more neighbors than these; None where `k` cuts them off.
        suggest: also say which labels the neighbors vote for.
    """

    options: dict[str, Any]
    most: int | None
    suggest: bool

    def answer(self, encoder_digest: str, hits: list[Hit], query: dict[str, Any]) -> Response:
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
        return neighbors_answer(hits, encoder_digest, query, suggestion)


async def search(runtime: Runtime, request: Request) -> Response:
    """Find the neighbors of an image, a vector, an item, or of several examples."""
    limits = limits_of_collection(runtime)
    body = await read_body(request, runtime.settings)
    fields = SearchFields.read(body.fields, limits)
    options = search_options(fields, limits.neighbors)
    if fields.model_fields_set & {"positive", "negative"}:
        examples = ExampleQuery(body, fields, runtime.settings.max_images)
        return await _search_mixed(runtime, request, examples, options)
    _check_single_query(body, fields)
    if fields.key is not None:
        return await similar(runtime, fields.key, options)
    if fields.vector is not None:
        vector, query = fields.vector, {"vector": True}
    else:
        vector, query = await _image_query(runtime, request, body)
    return options.answer(
        runtime.encoder.digest,
        await runtime.collection.search(vector, **options.options),
        query,
    )


async def similar(runtime: Runtime, key: str, options: SearchOptions) -> Response:
    """Find the neighbors of an item by its stored vector, without the item itself."""
    hits = await runtime.collection.similar(key, **options.options)
    return options.answer(runtime.encoder.digest, hits, {"key": key})


async def _search_mixed(
    runtime: Runtime, request: Request, examples: ExampleQuery, options: SearchOptions
) -> Response:
    uploads = await fetched(runtime.fetcher, request, examples.uploads)
    outcomes: list[EmbeddedUpload | HttpError] = []
    if uploads:
        outcomes = await while_connected(request, runtime.embedder.embed(uploads))
    for outcome, upload in zip(outcomes, uploads, strict=True):
        if isinstance(outcome, EmbeddedUpload):
            check_direction(outcome, upload.param)
    positive, negative = examples.with_vectors(outcomes)
    hits = await runtime.collection.search_mixed(
        positive, negative, negative_weight=examples.weight, **options.options
    )
    query = {"positive": len(positive), "negative": len(negative)}
    return options.answer(runtime.encoder.digest, hits, query)


def search_options(fields: SimilarFields, most: int) -> SearchOptions:
    """Return what the fields of a search ask for."""
    k = VOTERS if fields.suggest_label and "k" not in fields.model_fields_set else fields.k
    options = {
        "k": most + 1 if fields.all else min(k, most),
        "min_score": fields.min_score,
        "filter": fields.filter,
        "exact": fields.exact or fields.all,
    }
    return SearchOptions(options, most if fields.all else None, fields.suggest_label)


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """Do the work of a request whose body has been read; give it up when the client goes.

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


async def fetched(fetcher: Fetcher | None, request: Request, uploads: list[Upload]) -> list[Upload]:
    """Return the uploads with the images that URLs stand for, where the service fetches any.

    Before they are admitted to decoding: a slow server takes no slots from other requests.
    """
    if fetcher is None or not any(one.url for one in uploads):
        return uploads
    share = request.scope[SHARE_KEY]
    return await while_connected(request, fetcher.fill(uploads, share))


def _check_single_query(body: Body, fields: SearchFields) -> None:
    queries = ["image"] * len(body.uploads)
    queries += [name for name in ("vector", "key") if name in fields.model_fields_set]
    if not queries:
        raise _missing("image", "there is nothing to search for: send an image, a vector or a key")
    if len(queries) > 1:
        raise HttpError(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "several-queries",
            f"{' and '.join(queries[:3])}: send one image, one vector or one key, "
            "or several as positive and negative",
            param=queries[1],
        )


async def _image_query(
    runtime: Runtime, request: Request, body: Body
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    uploads = await fetched(runtime.fetcher, request, body.uploads)
    (outcome,) = await while_connected(request, runtime.embedder.embed(uploads))
    if isinstance(outcome, HttpError):
        raise outcome
    check_direction(outcome, body.uploads[0].param)
    return outcome.vector, {"width": outcome.width, "height": outcome.height}


def check_direction(embedded: EmbeddedUpload, param: str) -> None:
    """Refuse an image whose embedding is zero: nothing is similar to it."""
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
