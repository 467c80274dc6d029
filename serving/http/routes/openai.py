"""/v1/embeddings and /v1/models: the interface of OpenAI's clients, for images.

`input` is an image or a list of images: data URIs, base64 text or URLs, or
`{"image_url": {"url": …}}` as in OpenAI's messages. `dimensions` keeps the first numbers of each
embedding and brings it back to length one. An answer has no room for refused images, so one
refuses all.
"""

from typing import Any
from urllib.parse import unquote

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from export.encoder_file.encoder_file import Encoder
from serving.http.engine.embedding import EmbeddedUpload
from serving.http.engine.runtime import Runtime
from serving.http.json_text import json_response, show
from serving.http.policy.settings import Settings
from serving.http.request.errors import HttpError, invalid, malformed
from serving.http.request.parsing import parsed
from serving.http.request.request_body import read_body, too_many_images
from serving.http.request.uploads import Upload, decode_upload
from serving.http.routes.answers import encoded_vector, whole_refusal
from serving.http.routes.fields import OpenAIFields, limits_of
from serving.http.routes.queries import fetched, while_connected

MODEL = "lookalike"


async def embeddings(runtime: Runtime, request: Request) -> Response:
    """POST /v1/embeddings."""
    body = await read_body(request, runtime.settings)
    fields = OpenAIFields.read(body.fields, limits_of(runtime))
    check_model(runtime.encoder, fields.model or MODEL)
    dimensions = fields.dimensions or runtime.encoder.embedding_dim
    uploads = await parsed(body.size, _uploads, fields.input, runtime.settings)
    uploads = await fetched(runtime.fetcher, request, uploads)
    outcomes = await while_connected(request, runtime.embedder.embed(uploads))
    if any(isinstance(outcome, HttpError) for outcome in outcomes):
        raise whole_refusal(outcomes)
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": encoded_vector(_shortened(outcome, dimensions), fields.encoding_format),
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


async def models(runtime: Runtime, _request: Request) -> Response:
    """GET /v1/models."""
    return json_response({"object": "list", "data": [_model(runtime.encoder)]})


async def one_model(runtime: Runtime, request: Request) -> Response:
    """GET /v1/models/{model}."""
    check_model(runtime.encoder, unquote(request.path_params["model"]))
    return json_response(_model(runtime.encoder))


def check_model(encoder: Encoder, name: str) -> None:
    """Refuse a model that is not served; the encoder's SHA-256 is a name of it too."""
    if name not in (MODEL, encoder.digest):
        message = f"there is no model {show(name)} here: its name is {MODEL}"
        raise HttpError(404, "unknown-model", message, param="model")


def _model(encoder: Encoder) -> dict[str, Any]:
    return {
        "id": MODEL,
        "object": "model",
        "created": 0,
        "owned_by": "lookalike",
        "encoder": encoder.digest,
        "dimensions": encoder.embedding_dim,
    }


def _uploads(images: object, settings: Settings) -> list[Upload]:
    if images is None or images == []:
        raise HttpError(422, "missing-image", "there is no input: send images", param="input")
    values = images if isinstance(images, list) else [images]
    if len(values) > settings.max_images:
        raise too_many_images(len(values), settings)
    if all(isinstance(value, int) for value in values):
        raise invalid("input", "input is a list of tokens: this model embeds images, not text")
    several = isinstance(images, list)
    return [
        _upload(_address(value), f"input[{number}]" if several else "input")
        for number, value in enumerate(values)
    ]


def _upload(image: object, param: str) -> Upload:
    """Return an image, or the refusal of a text: words have spaces, base64 and URLs have none."""
    if isinstance(image, str) and " " in image[:1000].strip() and image[:5].lower() != "data:":
        message = f"{param} is {show(image)}: this model embeds images, not text"
        return Upload(malformed("base64", message, param), param)
    return decode_upload(image, param)


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
