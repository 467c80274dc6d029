"""The answers to good requests: embeddings in three encodings, neighbors, items."""

import base64
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from starlette.datastructures import Headers
from starlette.responses import Response

from serving.collection import Hit, Record, Suggestion
from serving.http.engine.embedding import EmbeddedUpload
from serving.http.json_text import json_response, show
from serving.http.request.errors import HttpError
from serving.http.routes.fields import Encoding, VectorDtype

NPY = "application/x-npy"
MAX_ANSWER_BYTES = 32 * 2**20
PLAIN_KEY = re.compile(r"[\w.~/-]*", re.ASCII)
# What a client may ask for in Accept, and the encoding it means.
ACCEPTED: dict[str, Encoding] = {
    "*/*": "float",
    "application/*": "float",
    "application/json": "float",
    NPY: "npy",
    "application/octet-stream": "npy",
}


def accepted_encoding(headers: Headers) -> Encoding:
    """Return the encoding that a request's `Accept` prefers.

    Raises:
        HttpError: 406, none of what it accepts can be sent.
    """
    accept = headers.get("accept") or "*/*"
    wishes = [_wish(entry) for entry in accept.split(",")]
    for quality, media_type in sorted(wishes, key=lambda wish: -wish[0]):
        if quality > 0 and (encoding := ACCEPTED.get(media_type)):
            return encoding
    raise HttpError(
        HTTPStatus.NOT_ACCEPTABLE,
        "not-acceptable",
        f"Accept is {show(accept)}: embeddings come as application/json or {NPY}",
        param="Accept",
    )


def _wish(entry: str) -> tuple[float, str]:
    """Return how much a client wants a media type, from an entry of its Accept header."""
    media_type, *options = (field.strip().lower() for field in entry.split(";"))
    for option in options:
        if option.startswith("q="):
            try:
                return float(option[2:]), media_type
            except ValueError:
                return 0.0, media_type
    return 1.0, media_type


def embeddings_answer(
    outcomes: Sequence[EmbeddedUpload | HttpError],
    encoding: Encoding,
    dtype: VectorDtype,
    encoder_digest: str,
) -> Response:
    """Return the answer to /embed.

    JSON holds one entry an image, in the order sent; where an image was refused the entry is null
    and `errors` says why. A .npy file cannot say that, so there one refused image refuses all.

    Raises:
        HttpError: no image could be embedded, or one could not and the answer is a .npy file.
    """
    refused = refused_items(outcomes)
    if refused and (encoding == "npy" or len(refused) == len(outcomes)):
        raise whole_refusal(outcomes)
    embedded = [one.vector if isinstance(one, EmbeddedUpload) else None for one in outcomes]
    vectors = [None if vector is None else in_dtype(vector, dtype) for vector in embedded]
    if encoding == "npy":
        matrix = np.stack([vector for vector in vectors if vector is not None])
        file = io.BytesIO()
        np.save(file, matrix, allow_pickle=False)
        return Response(file.getvalue(), media_type=NPY)
    content = {
        "encoder": encoder_digest,
        "dimensions": next(len(vector) for vector in embedded if vector is not None),
        "dtype": dtype,
        "embeddings": [
            None if vector is None else encoded_vector(vector, encoding) for vector in vectors
        ],
        "errors": refused,
    }
    return json_response(content)


def in_dtype(vector: NDArray[np.float32], dtype: VectorDtype) -> NDArray[Any]:
    """Return an embedding in fewer bytes that still tell similarities.

    Args:
        vector: [E].
        dtype: `float32` or `float16`: as it is. `int8`: stretched so that its largest number is
            ±127, and rounded; cosine similarity does not ask for the length. `binary`: uint8
            [E / 8, rounded up], a bit for each number, 1 where it is positive, the first in the
            highest bit, for Hamming distance.
    """
    match dtype:
        case "float16":
            return vector.astype(np.float16)
        case "int8":
            largest = np.abs(vector).max()
            return np.rint(vector * (127 / largest if largest else 0)).astype(np.int8)
        case "binary":
            return np.packbits(vector > 0)
        case _:
            return vector


def encoded_vector(vector: NDArray[Any], encoding: Encoding) -> NDArray[Any] | str:
    """One embedding for JSON: numbers, or base64 of their little-endian bytes."""
    if encoding == "base64":
        little = vector.astype(vector.dtype.newbyteorder("<"), copy=False)
        return base64.b64encode(little.tobytes()).decode()
    return vector


def refused_items(outcomes: Iterable[object]) -> list[dict[str, Any]]:
    """Return the refused images of a batch with their positions, for `errors`."""
    return [
        {"index": index, "type": one.type, "message": one.message, "param": one.param}
        for index, one in enumerate(outcomes)
        if isinstance(one, HttpError)
    ]


def whole_refusal(outcomes: Sequence[object]) -> HttpError:
    """Return the refusal of a request because of its images: the first one's, with all listed."""
    first = next(one for one in outcomes if isinstance(one, HttpError))
    return HttpError(
        first.status,
        first.type,
        first.message,
        param=first.param,
        items=refused_items(outcomes) if len(outcomes) > 1 else (),
    )


def item_path(key: str) -> str:
    """Return the path of an item, with every ambiguous sign of its key encoded."""
    if PLAIN_KEY.fullmatch(key):  # most are: a tenth of the time of `quote`, for each neighbor
        return "/items/" + key.replace("/", "%2F")
    return f"/items/{quote(key, safe='')}"


def public_uri(uri: str) -> str | None:
    """Return an item's uri, if it leads anywhere."""
    return None if uri.startswith("upload:") else uri


def neighbors_answer(
    hits: Sequence[Hit],
    encoder_digest: str,
    query: Mapping[str, Any],
    suggestion: Suggestion | None = None,
) -> Response:
    """Return the answer to a search: the most similar first, and any suggested labels.

    Raises:
        HttpError: their metadata are too large for one answer.
    """
    neighbors = [
        {
            "key": hit.key,
            "score": hit.score,
            "uri": public_uri(hit.uri),
            "label": hit.label,
            "metadata": hit.metadata,
            "thumbnail": f"{item_path(hit.key)}/thumbnail",
        }
        for hit in hits
    ]
    content: dict[str, Any] = {"encoder": encoder_digest, "query": query, "neighbours": neighbors}
    if suggestion is not None:
        content["suggestion"] = suggestion.to_dict()
    answer = json_response(content)
    if len(answer.body) > MAX_ANSWER_BYTES:
        raise HttpError(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "answer-too-large",
            f"{len(hits)} neighbors have more than {MAX_ANSWER_BYTES} bytes: ask for fewer",
            param="k",
        )
    return answer


def item_json(item: Record, *, with_vector: bool = False) -> dict[str, Any]:
    """Return an item as it stands in an answer."""
    content: dict[str, Any] = {
        "key": item.key,
        "uri": public_uri(item.uri),
        "label": item.label,
        "width": item.width,
        "height": item.height,
        "sha256": item.sha256,
        "metadata": dict(item.metadata),
        "thumbnail": f"{item_path(item.key)}/thumbnail",
    }
    if with_vector:
        content["vector"] = np.asarray(item.vector, np.float32)
    return content
