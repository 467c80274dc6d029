"""The routes beside BentoML's own: items, the page, metrics and the OpenAPI description."""

from collections.abc import Awaitable, Callable, Iterator
from http import HTTPStatus
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from serving.http.engine.lifecycle import Lifecycle
from serving.http.engine.runtime import Runtime
from serving.http.gate.gate import Handler, answering
from serving.http.gate.item_paths import ANY_ITEM, ANY_VIEW
from serving.http.json_text import json_response
from serving.http.request.errors import HttpError
from serving.http.routes import kserve, kserve_model, openai
from serving.http.routes.add_items import add_items
from serving.http.routes.items import list_items, one_item
from serving.http.telemetry import metrics

PAGE = files("serving.http") / "web"
PAGE_FILES = {
    "index.html": "text/html",
    "style.css": "text/css",
    "icon.svg": "image/svg+xml",
    **dict.fromkeys(
        (
            "page.js",
            "api.js",
            "cards.js",
            "inputs.js",
            "kept_files.js",
            "key_dialog.js",
            "messages.js",
        ),
        "text/javascript",
    ),
}

VERSION = metrics.installed_version()

Endpoint = Callable[[Runtime, Request], Awaitable[Response]]


def bound(endpoint: Endpoint, lifecycle: Lifecycle) -> Handler:
    """Return the endpoint as a handler of requests; it works with what is open by then."""
    return lambda request: endpoint(lifecycle.runtime, request)


def make_app(lifecycle: Lifecycle, describe: Callable[[], dict[str, Any]]) -> Starlette:
    """Return the Starlette app that BentoML mounts at `/`.

    Args:
        lifecycle: the service's.
        describe: makes the OpenAPI description.
    """

    async def docs(_runtime: Runtime, _request: Request) -> Response:
        return json_response(describe())

    def route(path: str, endpoint: Endpoint, methods: list[str]) -> Route:
        return Route(path, answering(bound(endpoint, lifecycle)), methods=methods)

    return Starlette(
        routes=[
            route("/", page, ["GET"]),
            route("/web/{file}", page, ["GET"]),
            route("/favicon.ico", page, ["GET"]),
            route("/status", status, ["GET"]),
            route("/metrics", show_metrics, ["GET"]),
            route("/docs.json", docs, ["GET"]),
            route("/openapi.json", docs, ["GET"]),
            route("/health", health, ["GET"]),
            route("/v1/embeddings", openai.embeddings, ["POST"]),
            route("/v1/models", openai.models, ["GET"]),
            route("/v1/models/{model}", openai.one_model, ["GET"]),
            *(route(path, endpoint, methods) for path, endpoint, methods in _kserve_routes()),
            route("/items", items, ["GET", "POST"]),
            route(ANY_ITEM, one_item, ["GET", "DELETE"]),
            route(ANY_VIEW, one_item, ["GET"]),
        ]
    )


def _kserve_routes() -> Iterator[tuple[str, Endpoint, list[str]]]:
    yield "/v2", kserve_model.server, ["GET"]
    yield "/v2/health/live", kserve_model.live, ["GET"]
    yield "/v2/health/ready", kserve_model.ready, ["GET"]
    yield "/v2/models", kserve_model.models, ["GET"]
    yield "/v2/models/stats", kserve_model.statistics, ["GET"]
    yield "/v2/repository/index", kserve_model.repository_index, ["POST"]
    for model in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        yield model, kserve_model.metadata, ["GET"]
        yield f"{model}/ready", kserve_model.ready, ["GET"]
        yield f"{model}/config", kserve_model.configuration, ["GET"]
        yield f"{model}/stats", kserve_model.statistics, ["GET"]
        yield f"{model}/infer", kserve.infer, ["POST"]


async def items(runtime: Runtime, request: Request) -> Response:
    """List items, or add some."""
    handler = add_items if request.method == "POST" else list_items
    return await handler(runtime, request)


async def page(_runtime: Runtime, request: Request) -> Response:
    """Return the web page and its files."""
    default = "icon.svg" if request.url.path == "/favicon.ico" else "index.html"
    name = request.path_params.get("file", default)
    if name not in PAGE_FILES:
        raise HttpError(404, "not-found", "the page has no such file")
    headers = {"Cache-Control": "no-cache"}
    return Response((PAGE / name).read_bytes(), headers=headers, media_type=PAGE_FILES[name])


async def status(runtime: Runtime, _request: Request) -> Response:
    """Return what the service is: its encoder, its collection, its limits."""
    encoder, settings = runtime.encoder, runtime.settings
    content = {
        "ready": runtime.ready,
        "version": VERSION,
        "encoder": {
            "sha256": encoder.digest,
            "dimensions": encoder.embedding_dim,
            "image_size": encoder.preprocess.size,
            "provider": encoder.provider,
        },
        "collection": {"items": await runtime.count_items()} if runtime.access else None,
        "limits": {
            "body_bytes": settings.max_body_bytes,
            "image_bytes": settings.max_image_bytes,
            "pixels": settings.max_pixels,
            "images": settings.max_images,
            "neighbours": settings.max_neighbours,
        },
    }
    return json_response(content)


async def health(runtime: Runtime, _request: Request) -> Response:
    """Return 200 when the service is ready; the gate answers 503 in our own shape."""
    if runtime.ready:
        return json_response({"status": "ok"})
    return Response(status_code=HTTPStatus.SERVICE_UNAVAILABLE)


async def show_metrics(runtime: Runtime, _request: Request) -> Response:
    """Return the metrics for Prometheus."""
    runtime.metrics.note_memory()
    text = runtime.metrics.text(await runtime.count_items())
    text += metrics.build_info(VERSION, runtime.encoder.digest)
    return PlainTextResponse(text, media_type=metrics.CONTENT_TYPE)
