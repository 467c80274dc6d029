"""Complete BentoML's OpenAPI description with what BentoML cannot know.

BentoML describes /embed and /search as forms that answer JSON, with errors in its own shape. Added
here: raw images and JSON as inputs, .npy as output, our refusals, keys, and the routes beside
BentoML's. The fields come from `routes.fields`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from serving.collection.contract.records import MAX_KEY_BYTES
from serving.http.engine.thumbnails import MEDIA_TYPE
from serving.http.request.errors import PLAIN_ERRORS
from serving.http.request.fields import Limits, RequestFields
from serving.http.routes.answers import NPY
from serving.http.routes.fields import (
    BASE64,
    AddFields,
    AddListFields,
    EmbedFields,
    InferFields,
    ItemFields,
    ListFields,
    OpenAIFields,
    SearchFields,
    SimilarFields,
    ThumbnailFields,
)

Spec = dict[str, Any]

ERROR: Spec = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["type", "message", "param"],
            "properties": {
                "type": {"type": "string", "description": "a stable name, for programs"},
                "message": {"type": "string", "description": "what was wrong, and the remedy"},
                "param": {"type": "string", "nullable": True},
            },
        },
        "errors": {
            "type": "array",
            "description": "the refused images of a batch",
            "items": {
                "type": "object",
                "properties": {
                    "index": {"type": "integer"},
                    "type": {"type": "string"},
                    "message": {"type": "string"},
                    "param": {"type": "string", "nullable": True},
                },
            },
        },
    },
}
PLAIN_ERROR: Spec = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string", "description": "what was wrong, and the remedy"}},
}
REFUSALS = {
    "400": "Malformed",
    "401": "No key, or an unknown one",
    "403": "Not allowed with this key, from this host or site",
    "404": "Unknown route or key, or no collection",
    "406": "Accept allows nothing that can be sent",
    "408": "The request came too slowly",
    "409": "The key is in the collection already",
    "413": "Too many bytes, pixels, images or items",
    "415": "Another media type",
    "422": "A field or an image that cannot be used",
    "429": "Too many images are waiting; see Retry-After",
    "431": "The head of the request is too large",
    "503": "Not ready, or given up; see Retry-After",
    "507": "No space for a change",
}
BINARY: Spec = {"type": "string", "format": "binary"}
JSON_OBJECT: Spec = {"application/json": {"schema": {"type": "object"}}}


def complete(spec: Spec, limits: Limits, models: Sequence[str]) -> Spec:
    """Return the description of all routes.

    Args:
        spec: BentoML's; it is changed.
        limits: of the service.
        models: the names of the one model.
    """
    spec["info"] = {
        "title": "Lookalike",
        "version": "1",
        "description": "Embeds images and finds similar ones.",
    }
    components = spec.setdefault("components", {})
    components.setdefault("schemas", {}).update(Error=ERROR, PlainError=PLAIN_ERROR)
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    spec["security"] = [{}, {"bearer": []}, {"header": []}]
    paths = spec["paths"]
    for operations in paths.values():
        for operation in operations.values():
            answers = operation["responses"]  # by numbers, which JSON has no keys for
            operation["responses"] = {str(status): answer for status, answer in answers.items()}
    _extend_embed(paths["/embed"]["post"])
    _extend_search(paths["/search"]["post"])
    paths.update(_own_paths())
    for path, operations in paths.items():
        for method, operation in operations.items():
            if method in ("get", "post", "delete"):
                _set_refusals(operation, path)
    several = {"maxItems": limits.images}
    bounds: dict[str, Spec] = {
        "k": {"maximum": limits.neighbors},
        "dimensions": {"maximum": limits.dim},
        "key": {"minLength": 1, "maxLength": MAX_KEY_BYTES},
        **dict.fromkeys(("images", "items", "positive", "negative"), several),
    }
    spec["paths"] = _bounded(paths, bounds | {"model": {"enum": list(models)}})
    return spec


def _bounded(value: Any, bounds: Mapping[str, Spec]) -> Any:
    """Return a piece of the description with the bounds that only the service knows."""
    if isinstance(value, list):
        return [_bounded(one, bounds) for one in value]
    if not isinstance(value, dict):
        return value
    whole = {name: _bounded(one, bounds) for name, one in value.items()}
    if "in" in whole and whole.get("name") in bounds:
        whole["schema"] = {**whole["schema"], **bounds[whole["name"]]}
    if isinstance(properties := whole.get("properties"), dict):
        for name in properties.keys() & bounds.keys():
            properties[name] = {**properties[name], **bounds[name]}
    return whole


def _extend_embed(operation: Spec) -> None:
    operation["requestBody"]["content"] = {
        **_form(EmbedFields, images={"type": "array", "items": BINARY}),
        **_json(EmbedFields, images={"type": "array", "items": BASE64}),
        **_raw_image(),
    }
    operation["responses"]["200"]["content"][NPY] = {"schema": BINARY}
    operation["parameters"] = _query(EmbedFields)


def _extend_search(operation: Spec) -> None:
    operation["requestBody"]["content"] = {
        **_form(SearchFields, image=BINARY),
        **_json(SearchFields, image=BASE64),
        **_raw_image(),
    }
    operation["parameters"] = _query(SearchFields)


def _own_paths() -> Spec:
    key = _in_path("key")
    similar = _operation("The neighbors of an item.", key, *_query(SimilarFields))
    thumbnail = _operation("A small image.", key, *_query(ThumbnailFields))
    thumbnail["responses"]["200"]["content"] = {MEDIA_TYPE: {"schema": BINARY}}
    return {
        "/items": {
            "get": _operation(
                "A page of items in the order of their keys, or a random sample.",
                *_query(ListFields),
            ),
            "post": _adding(),
        },
        "/items/{key}": {
            "get": _operation("One item.", key, *_query(ItemFields)),
            "delete": _operation("Removes an item.", key),
        },
        "/items/{key}/similar": {"get": similar},
        "/items/{key}/thumbnail": {"get": thumbnail},
        "/health": {"get": _operation("As /readyz, under the name that many clients know.")},
        "/status": {"get": _operation("The encoder, the collection and the limits.")},
        **_public_paths(),
    }


def _adding() -> Spec:
    content = {**_form(AddFields, image=BINARY), **_json(AddListFields), **_raw_image()}
    return {
        **_operation("Adds items: all of them, or none.", *_query(AddFields)),
        "requestBody": {"required": True, "content": content},
        "responses": {
            status: {"description": text, "content": JSON_OBJECT}
            for status, text in (("200", "Replaced or there already"), ("201", "Added"))
        },
    }


def _public_paths() -> Spec:
    """Return the routes that other programs' clients know: their descriptions say more."""
    model = _in_path("model")
    return {
        "/v1/embeddings": {"post": _posting("OpenAI's embeddings, of images.", OpenAIFields)},
        "/v1/models": {"get": _operation("OpenAI's list of models: one.")},
        "/v1/models/{model}": {"get": _operation("One model.", model)},
        "/v2": {"get": _operation("The open inference protocol: the server.")},
        "/v2/health/live": {"get": _operation("200 while the service works.")},
        "/v2/health/ready": {"get": _operation("200 when it is warm.")},
        "/v2/models": {"get": _operation("The names of the models: one.")},
        "/v2/models/stats": {"get": _operation("Triton's statistics of all models.")},
        "/v2/models/{model}": {"get": _operation("Inputs and outputs of the model.", model)},
        "/v2/models/{model}/ready": {"get": _operation("200 when it is warm.", model)},
        "/v2/models/{model}/config": {"get": _operation("Triton's configuration.", model)},
        "/v2/models/{model}/stats": {"get": _operation("Triton's statistics.", model)},
        "/v2/repository/index": {"post": _repository_index()},
        "/v2/models/{model}/infer": {"post": _posting("Tensors to tensors.", InferFields, model)},
    }


def _posting(description: str, fields: type[RequestFields], *parameters: Spec) -> Spec:
    request = {"requestBody": {"required": True, "content": _json(fields)}}
    return {**_operation(description, *parameters), **request}


def _in_path(name: str) -> Spec:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _set_refusals(operation: Spec, path: str) -> None:
    """Every route but the probes may refuse, all in one shape."""
    if path in ("/livez", "/readyz", "/healthz", "/metrics"):
        return
    good = {status: answer for status, answer in operation["responses"].items() if status[0] == "2"}
    name = "PlainError" if path.startswith(PLAIN_ERRORS) else "Error"
    shape = {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}
    refusals = {
        status: {"description": text, "content": shape} for status, text in REFUSALS.items()
    }
    operation["responses"] = {**good, **refusals}


def _operation(description: str, *parameters: Spec) -> Spec:
    answer = {"description": "Good", "content": JSON_OBJECT}
    return {
        "description": description,
        "parameters": list(parameters),
        "responses": {"200": answer},
    }


def _repository_index() -> Spec:
    operation = _operation("Triton's index of models.")
    content = {"application/json": {"schema": {"type": "array", "items": {"type": "object"}}}}
    return {**operation, "responses": {"200": {"description": "Good", "content": content}}}


def _query(fields: type[RequestFields]) -> list[Spec]:
    """Return fields as parameters of the query: JSON as text, and no lists, which are too long."""
    return [
        {
            "name": name,
            "in": "query",
            "description": schema.get("description", ""),
            "schema": _in_query(schema),
        }
        for name, schema in fields.properties.items()
        if schema.get("type") != "array"
    ]


def _in_query(schema: Spec) -> Spec:
    kind = schema["type"]
    return {"type": "string"} if kind == "object" else _without(schema, "description")


def _form(fields: type[RequestFields], **images: Spec) -> Spec:
    return {"multipart/form-data": {"schema": _object(**images, **fields.properties)}}


def _json(fields: type[RequestFields], **images: Spec) -> Spec:
    return {"application/json": {"schema": _object(**images, **fields.properties)}}


def _object(**properties: Spec) -> Spec:
    return {"type": "object", "properties": properties}


def _without(schema: Spec, name: str) -> Spec:
    return {key: value for key, value in schema.items() if key != name}


def _raw_image() -> Spec:
    return {kind: {"schema": BINARY} for kind in ("image/*", "application/octet-stream")}
