"""/v1/embeddings and /v1/models: what OpenAI's clients send, for images.

`input` is an image or a list of images: data URIs, base64 text or URLs, or
`{"image_url": {"url": …}}` as in OpenAI's messages. `dimensions` keeps the first numbers of each
embedding and brings it back to length one. An answer has no place for refused images, so one
refuses all.
"""

from typing import Any
from urllib.parse import unquote

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from serving.http.engine.embedding import EmbeddedUpload
from serving.http.engine.engine import Engine
from serving.http.json_text import json_response, show
from serving.http.request.errors import HttpError, invalid
from serving.http.request.form_fields import Fields
from serving.http.request.request_body import Upload, decode_upload, read_body, too_many_images
from serving.http.routes.answers import encoded_vector, whole_refusal
from serving.http.routes.queries import fetched, while_connected

MODEL = "lookalike"
FIELDS = ("input", "model", "encoding_format", "dimensions", "user")
ENCODINGS = ("float", "base64")


async def embeddings(engine: Engine, request: Request) -> Response:
    """POST /v1/embeddings."""
    body = await read_body(request, engine.settings)
    values = dict(body.fields)
    given = values.pop("input", None)
    fields = Fields(values, FIELDS)
    check_model(engine, fields.text("model") or MODEL)
    encoding = fields.choice("encoding_format", ENCODINGS) or "float"
    full = engine.encoder.embedding_dim
    dimensions = fields.integer("dimensions", full, 1, full)
    uploads = await fetched(engine, request, _uploads(given, engine))
    outcomes = await while_connected(request, engine.embedder.embed(uploads))
    if any(isinstance(outcome, HttpError) for outcome in outcomes):
        raise whole_refusal(outcomes)
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": encoded_vector(_shortened(outcome, dimensions), encoding),
        }
        for index, outcome in enumerate(outcomes)
        if isinstance(outcome, EmbeddedUpload)
    ]
    content = {
        "object": "list",
        "data": data,
        "model": MODEL,
        "usage": {"prompt_tokens": 0, "total_tokens": 0},
    }
    return json_response(content)


async def models(engine: Engine, _request: Request) -> Response:
    """GET /v1/models."""
    return json_response({"object": "list", "data": [_model(engine)]})


async def one_model(engine: Engine, request: Request) -> Response:
    """GET /v1/models/{model}."""
    check_model(engine, unquote(request.path_params["model"]))
    return json_response(_model(engine))


def check_model(engine: Engine, name: str) -> None:
    """Refuses a model that is not served; the encoder's SHA-256 is a name of it too."""
    if name not in (MODEL, engine.encoder.digest):
        message = f"there is no model {show(name)} here: its name is {MODEL}"
        raise HttpError(404, "unknown-model", message, param="model")


def _model(engine: Engine) -> dict[str, Any]:
    return {
        "id": MODEL,
        "object": "model",
        "created": 0,
        "owned_by": "lookalike",
        "encoder": engine.encoder.digest,
        "dimensions": engine.encoder.embedding_dim,
    }


def _uploads(given: object, engine: Engine) -> list[Upload]:
    if given is None or given == []:
        raise HttpError(422, "missing-image", "there is no input: send images", param="input")
    values = given if isinstance(given, list) else [given]
    if len(values) > engine.settings.max_images:
        raise too_many_images(len(values), engine.settings)
    if all(isinstance(value, int) for value in values):
        raise invalid("input", "input is a list of tokens: this model embeds images, not text")
    several = isinstance(given, list)
    return [
        decode_upload(_address(value), f"input[{number}]" if several else "input")
        for number, value in enumerate(values)
    ]


def _address(value: object) -> object:
    """Return the text of an image, out of the object it may stand in."""
    if isinstance(value, dict):
        inner = value.get("image_url", value.get("image"))
        return inner.get("url") if isinstance(inner, dict) else inner
    return value


def _shortened(embedded: EmbeddedUpload, dimensions: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    vector = embedded.vector
    if dimensions == len(vector):
        return vector
    kept = vector[:dimensions]
    length = float(np.linalg.norm(kept))
    return kept / np.float32(length) if length else kept
