"""The BentoML service: /embed and /search are its APIs, all other routes an app mounted at `/`.

BentoML describes both APIs in /docs.json and /schema.json, so that its clients work. It does not
parse their requests: the input models hand the request through untouched, because BentoML's own
parsing answers 500 to a corrupt upload and opens URLs that a client names. What comes over HTTP is
answered by the gate, with the same functions.
"""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bentoml
from pydantic import create_model
from starlette.requests import Request
from starlette.responses import Response
from uvicorn.config import HTTP_PROTOCOLS

from base.errors import LookalikeError, UsageError
from serving.http.engine.lifecycle import Lifecycle
from serving.http.engine.runtime import Runtime
from serving.http.gate.connections import Connections, allowed_connections
from serving.http.gate.gate import Gate, answering
from serving.http.gate.protocol import CONNECTIONS, BoundedProtocol
from serving.http.policy.settings import Settings, from_environment
from serving.http.request.errors import HttpError
from serving.http.request.fields import RequestFields
from serving.http.routes.app import bound, make_app
from serving.http.routes.fields import EmbedFields, SearchFields, limits_of
from serving.http.routes.openai import MODEL, embeddings
from serving.http.routes.openapi import complete
from serving.http.routes.queries import embed, search
from serving.http.telemetry import access_log

NAME = "lookalike"
NO_TRACKING = "BENTOML_DO_NOT_TRACK"
# Named, not imported: where BentoML keeps the first is its own affair.
TIMER, TRACER = "TimeoutMiddleware", "OpenTelemetryMiddleware"


class LeanService(bentoml.Service[Any]):  # type: ignore[misc]
    """BentoML's service, without what it puts around every request.

    Its limit of a request's time leaves a timer behind until that time is up, answered or not, and
    runs each request in a task more; the gate has a limit of its own. And where nobody wants
    traces, five spans for each request are more work than all the rest of an answer to a small one.

    Attributes:
        lifecycle: the service's; set by `make_service`.
    """

    lifecycle: Lifecycle

    def to_asgi(self, is_main: bool = True) -> Any:
        """Return the app; see the class."""
        app = super().to_asgi(is_main)
        left_out = {TIMER} if traced(os.environ) else {TIMER, TRACER}
        kept = [one for one in app.user_middleware if one.cls.__name__ not in left_out]
        app.user_middleware = kept
        _bound_connections(app, self.lifecycle)
        return app


class _Unparsed(bentoml.IODescriptor):  # type: ignore[misc]
    """An input that BentoML describes but does not read."""

    @classmethod
    async def from_http_request(cls, request: Request, serde: object) -> Any:  # noqa: ARG003
        """Hand no fields to the API: it reads the request itself."""
        return SimpleNamespace(model_fields=())


def _input(name: str, fields: type[RequestFields], **images: Any) -> type[_Unparsed]:
    """Return a route's images and fields as an input that BentoML describes."""
    mirrored: dict[str, Any] = {
        field: (info.annotation, info) for field, info in fields.model_fields.items()
    }
    made: type[_Unparsed] = create_model(
        name, __base__=_Unparsed, __doc__=fields.__doc__, **images, **mirrored
    )
    return made


EmbedInput = _input(
    "EmbedInput",
    EmbedFields,
    images=(list[Path], bentoml.Field(description="images, as files")),
)
# BentoML finds no file in an optional path, and its client would not send one.
SearchInput = _input(
    "SearchInput",
    SearchFields,
    image=(list[Path], bentoml.Field(default_factory=list, description="one image, as a file")),
)


class EmbedOutput(bentoml.IODescriptor):  # type: ignore[misc]
    """Embeddings in the order of the images."""

    encoder: str = bentoml.Field(description="SHA-256 of the encoder file")
    dimensions: int = bentoml.Field(description="length of an embedding")
    dtype: str = bentoml.Field(description="what the numbers of the embeddings are")
    embeddings: list[Any] = bentoml.Field(
        description="for each image its embedding, or null where it was refused"
    )
    errors: list[dict[str, Any]] = bentoml.Field(
        description="the refused images: index, type, message and param"
    )


class SearchOutput(bentoml.IODescriptor):  # type: ignore[misc]
    """The neighbors, the most similar first."""

    encoder: str = bentoml.Field(description="SHA-256 of the encoder file")
    query: dict[str, Any] = bentoml.Field(description="what was searched for")
    neighbours: list[dict[str, Any]] = bentoml.Field(
        description="key, score, uri, label, metadata and thumbnail of each"
    )
    suggestion: dict[str, Any] | None = bentoml.Field(
        None, description="labels by vote, where they were requested"
    )


def make_service(lifecycle: Lifecycle) -> bentoml.Service[Any]:
    """Return a service that opens and starts with BentoML's."""
    # Before BentoML first asks for it: no usage reports, not from `bentoml serve` either.
    os.environ.setdefault(NO_TRACKING, "True")

    @bentoml.service(
        name=NAME,
        service_class=LeanService,
        workers=1,
        metrics={"enabled": False},
        logging={"access": {"enabled": False}},
        envs=[{"name": NO_TRACKING, "value": "True"}],
    )
    class Lookalike:
        """Embeds images and finds similar ones."""

        @bentoml.on_deployment  # type: ignore[untyped-decorator]
        @staticmethod
        def check() -> None:
            """End `bentoml serve` with one line if a setting is wrong, before workers start."""
            try:
                lifecycle.check()
            except LookalikeError as error:
                sys.exit(f"error: {error}")

        @bentoml.on_startup  # type: ignore[untyped-decorator]
        async def start(self) -> None:
            """Open the encoder and the collection."""
            await asyncio.to_thread(lifecycle.open)
            await lifecycle.start()

        @bentoml.on_shutdown  # type: ignore[untyped-decorator]
        async def stop(self) -> None:
            """Finish what runs."""
            await lifecycle.stop()

        async def __is_alive__(self) -> bool:
            return lifecycle.alive

        async def __is_ready__(self) -> bool:
            return lifecycle.warm

        @bentoml.api(input_spec=EmbedInput, output_spec=EmbedOutput)  # type: ignore[untyped-decorator]
        async def embed(self, ctx: bentoml.Context) -> Response:
            """Turn images into embeddings: vectors of length one, close where images are alike."""
            return await _answer(ctx, bound(embed, lifecycle))

        @bentoml.api(input_spec=SearchInput, output_spec=SearchOutput)  # type: ignore[untyped-decorator]
        async def search(self, ctx: bentoml.Context) -> Response:
            """Find the items most similar to an image, a vector or an item."""
            return await _answer(ctx, bound(search, lifecycle))

    lookalike: bentoml.Service[Any] = Lookalike
    lookalike.lifecycle = lifecycle
    posts = {
        "/embed": bound(embed, lifecycle),
        "/search": bound(search, lifecycle),
        "/v1/embeddings": bound(embeddings, lifecycle),
    }
    lookalike.add_asgi_middleware(Gate, lifecycle=lifecycle, posts=posts)
    app = make_app(lifecycle, cache(lambda: _description(lookalike, lifecycle.runtime)))
    lookalike.mount_asgi_app(app, path="/")
    return lookalike


def _description(lookalike: bentoml.Service[Any], runtime: Runtime) -> dict[str, Any]:
    names = (MODEL, runtime.encoder.digest)
    return complete(lookalike.openapi_spec.asdict(), limits_of(runtime), names)


def _note_refused(
    lifecycle: Lifecycle, client: tuple[str, int] | None, path: str, refusal: HttpError
) -> None:
    """Count and log a head that was refused before there was a request."""
    metrics = lifecycle.runtime.metrics
    metrics.note_request("", path, refusal.status, 0.0)
    metrics.refused.add(type=refusal.type)
    scope = {"client": client, "method": "", "path": path, "lookalike.id": ""}
    access_log.write(scope, refusal.status, 0.0, refusal.type, {})


def _bound_connections(app: Any, lifecycle: Lifecycle) -> None:
    """Bound what uvicorn accepts for this app.

    `bentoml serve` makes its uvicorn itself and has no option for the protocol, so that uvicorn's
    own choice is replaced; for apps that are not this one it keeps the bounds of a head.
    """
    settings = lifecycle.settings
    connections = Connections(
        head_seconds=settings.body_seconds,
        maximum=allowed_connections(settings.max_connections),
    )
    connections.on_refused = partial(_note_refused, lifecycle)
    setattr(app.state, CONNECTIONS, connections)
    HTTP_PROTOCOLS["auto"] = f"{BoundedProtocol.__module__}:{BoundedProtocol.__name__}"


async def _answer(
    ctx: bentoml.Context, handler: Callable[[Request], Awaitable[Response]]
) -> Response:
    response = await answering(handler)(ctx.request)
    ctx.response.status_code = response.status_code  # BentoML writes it over the answer's own
    return response


def traced(environ: Mapping[str, str]) -> bool:
    """Whether BentoML's configuration may ask for traces."""
    return "BENTOML_CONFIG" in environ or "tracing" in environ.get("BENTOML_CONFIG_OPTIONS", "")


def read_environment() -> Settings:
    """Return the settings of a service that BentoML starts.

    Raises:
        UsageError: what is set is wrong, or only `lookalike serve` can do it.
    """
    settings = from_environment(os.environ)
    if settings.workers > 1:
        raise UsageError(
            f"LOOKALIKE_WORKERS is {settings.workers}: a bento is served by one worker; use "
            "lookalike serve --workers, or several replicas"
        )
    return settings


service = make_service(Lifecycle(read_environment))
