"""Completes BentoML's OpenAPI description with what BentoML cannot know.

BentoML describes /embed and /search as forms that answer JSON, with errors in its own shape. Added
here: raw images and JSON as inputs, .npy as output, our refusals, keys, and the routes beside
BentoML's.
"""

from typing import Any

from serving.http.routes.answers import DTYPES, ENCODINGS, NPY

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
    "503": "Not ready, or given up; see Retry-After",
}
BINARY: Spec = {"type": "string", "format": "binary"}
JSON_OBJECT: Spec = {"application/json": {"schema": {"type": "object"}}}
BASE64: Spec = {"type": "string", "description": "base64, a data URI or a URL"}


def complete(spec: Spec) -> Spec:
    """Return the description of all routes; `spec` is BentoML's and is changed."""
    spec["info"] = {
        "title": "Lookalike",
        "version": "1",
        "description": "Embeds images and finds similar ones.",
    }
    components = spec.setdefault("components", {})
    components.setdefault("schemas", {})["HttpError"] = ERROR
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
    return spec


def _extend_embed(operation: Spec) -> None:
    content = operation["requestBody"]["content"]
    content.update(_raw_image())
    content["application/json"] = {
        "schema": _object(
            images={"type": "array", "items": BASE64},
            encoding_format={"type": "string", "enum": list(ENCODINGS)},
            dtype={"type": "string", "enum": list(DTYPES)},
        )
    }
    operation["responses"]["200"]["content"][NPY] = {"schema": BINARY}
    operation["parameters"] = [
        _query("encoding_format", "string", "float, base64 or npy"),
        _query("dtype", "string", "float32, float16, int8 or binary"),
    ]


def _extend_search(operation: Spec) -> None:
    content = operation["requestBody"]["content"]
    form = content["multipart/form-data"]["schema"]["properties"]
    form["image"] = BINARY
    vector = {"type": "array", "items": {"type": "number"}}
    example = {
        "oneOf": [_object(key={"type": "string"}), _object(vector=vector), _object(image=BASE64)]
    }
    examples = {
        "positive": "what neighbors are like",
        "negative": "what they are unlike; images, vector and key beside these are positive",
    }
    for name, description in examples.items():
        form[name] = {"type": "array", "description": description, "items": example}
    content.update(_raw_image())
    content["application/json"] = {"schema": _object(**{**form, "image": BASE64})}
    weight = "how much the mean of the negative examples counts; 0.5"
    operation["parameters"] = [*_search_parameters(), _query("negative_weight", "number", weight)]


def _own_paths() -> Spec:
    key = _in_path("key")
    item = _object(
        key={"type": "string"},
        image=BASE64,
        vector={"type": "array", "items": {"type": "number"}},
        label={"type": "string"},
        uri={"type": "string", "description": "an http:// or https:// link, to be shown"},
        metadata={"type": "object"},
    )
    on_duplicate = {"type": "string", "enum": ["refuse", "replace"]}
    form = {**item["properties"], "image": BINARY, "on_duplicate": on_duplicate}
    bodies: Spec = {
        "multipart/form-data": {"schema": _object(**form)},
        "application/json": {
            "schema": _object(items={"type": "array", "items": item}, on_duplicate=on_duplicate)
        },
        **_raw_image(),
    }
    return {
        "/items": {
            "get": _operation(
                "A page of items in the order of their keys, or a random sample.",
                _query("limit", "integer", "the most items"),
                _query("after", "string", "the last key of the page before"),
                _query("sample", "integer", "so many random items instead"),
            ),
            "post": {
                **_operation(
                    "Adds items: all of them, or none.",
                    _query("key", "string", "of a raw image"),
                    _query("label", "string", "of a raw image"),
                    _query("on_duplicate", "string", "refuse or replace"),
                ),
                "requestBody": {"required": True, "content": bodies},
                "responses": {
                    status: {"description": text, "content": JSON_OBJECT}
                    for status, text in (("200", "Replaced or there already"), ("201", "Added"))
                },
            },
        },
        "/items/{key}": {
            "get": _operation("One item.", key, _query("vector", "boolean", "with its vector")),
            "delete": _operation("Removes an item.", key),
        },
        "/items/{key}/similar": {
            "get": _operation("The neighbors of an item.", key, *_search_parameters())
        },
        "/items/{key}/thumbnail": {
            "get": {
                **_operation("A small picture.", key, _query("size", "integer", "in pixels")),
                "responses": {
                    "200": {
                        "description": "A picture",
                        "content": {"image/webp": {"schema": BINARY}},
                    }
                },
            }
        },
        "/status": {"get": _operation("The encoder, the collection and the limits.")},
        **_public_paths(),
    }


def _public_paths() -> Spec:
    """Return the routes that other programs' clients know: their own descriptions say more."""
    image_input = {"oneOf": [BASE64, {"type": "array", "items": BASE64}]}
    embeddings = _object(
        input=image_input,
        model={"type": "string"},
        encoding_format={"type": "string", "enum": ["float", "base64"]},
        dimensions={"type": "integer", "minimum": 1},
        user={"type": "string"},
    )
    tensors = {"type": "array", "items": {"type": "object"}}
    inference = _object(
        id={"type": "string"}, parameters=_object(), inputs=tensors, outputs=tensors
    )
    model = _in_path("model")
    return {
        "/v1/embeddings": {"post": _posting("OpenAI's embeddings, of images.", embeddings)},
        "/v1/models": {"get": _operation("OpenAI's list of models: one.")},
        "/v1/models/{model}": {"get": _operation("One model.", model)},
        "/v2": {"get": _operation("The open inference protocol: the server.")},
        "/v2/health/live": {"get": _probe("200 while the service works.")},
        "/v2/health/ready": {"get": _probe("200 when it is warm.")},
        "/v2/models/{model}": {"get": _operation("Inputs and outputs of the model.", model)},
        "/v2/models/{model}/ready": {"get": _probe("200 when it is warm.", model)},
        "/v2/models/{model}/infer": {"post": _posting("Tensors to tensors.", inference, model)},
    }


def _posting(description: str, body: Spec, *parameters: Spec) -> Spec:
    content = {"application/json": {"schema": body}}
    request = {"requestBody": {"required": True, "content": content}}
    return {**_operation(description, *parameters), **request}


def _in_path(name: str) -> Spec:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _set_refusals(operation: Spec, path: str) -> None:
    """Every route but the probes may refuse, all in one shape."""
    if path in ("/livez", "/readyz", "/healthz", "/metrics"):
        return
    good = {status: answer for status, answer in operation["responses"].items() if status[0] == "2"}
    shape = {"application/json": {"schema": {"$ref": "#/components/schemas/HttpError"}}}
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


def _probe(description: str, *parameters: Spec) -> Spec:
    """Return a route whose answer is its status."""
    operation = _operation(description, *parameters)
    return {**operation, "responses": {"200": {"description": "Good, without a body"}}}


def _search_parameters() -> list[Spec]:
    return [
        _query("k", "integer", "the most neighbors"),
        _query("min_score", "number", "the least cosine similarity"),
        _query("filter", "string", "a JSON object: label or metadata fields"),
        _query("exact", "boolean", "miss nothing, whatever recall the collection promises"),
        _query("all", "boolean", "all that is as similar as min_score, exactly; without k"),
        _query("suggest_label", "boolean", "also the labels that the neighbors vote for"),
    ]


def _query(name: str, kind: str, description: str) -> Spec:
    return {"name": name, "in": "query", "description": description, "schema": {"type": kind}}


def _object(**properties: Spec) -> Spec:
    return {"type": "object", "properties": properties}


def _raw_image() -> Spec:
    return {kind: {"schema": BINARY} for kind in ("image/*", "application/octet-stream")}
