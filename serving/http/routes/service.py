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
from typing import Any, Literal

import bentoml
from starlette.requests import Request
from starlette.responses import Response

from base.errors import LookalikeError, UsageError
from serving.http.engine.engine import Engine
from serving.http.gate.gate import Gate, answering
from serving.http.policy.settings import Settings, from_environment
from serving.http.routes.app import make_app
from serving.http.routes.openai import embeddings
from serving.http.routes.openapi import complete
from serving.http.routes.queries import embed, search

NAME = "lookalike"
NO_TRACKING = "BENTOML_DO_NOT_TRACK"
# Named, not imported: where BentoML keeps the first is its own affair.
TIMER, TRACER = "TimeoutMiddleware", "OpenTelemetryMiddleware"


class LeanService(bentoml.Service[Any]):  # type: ignore[misc]
    """BentoML's, without what it puts around every request.

    Its limit of a request's time leaves a timer behind until that time is up, answered or not, and
    runs each request in a task more; the gate has a limit of its own. And where nobody wants
    traces, five spans for each request are more work than all the rest of an answer to a small one.
    """

    def to_asgi(self, is_main: bool = True) -> Any:
        """Return the app; see the class."""
        app = super().to_asgi(is_main)
        left_out = {TIMER} if traced(os.environ) else {TIMER, TRACER}
        kept = [one for one in app.user_middleware if one.cls.__name__ not in left_out]
        app.user_middleware = kept
        return app


class _Unparsed(bentoml.IODescriptor):  # type: ignore[misc]
    """An input that BentoML describes but does not read."""

    @classmethod
    async def from_http_request(cls, request: Request, serde: object) -> Any:  # noqa: ARG003
        """Hands no fields to the API: it reads the request itself."""
        return SimpleNamespace(model_fields=())


class EmbedInput(_Unparsed):
    """Images to embed."""

    images: list[Path] = bentoml.Field(description="images, as files")
    encoding_format: Literal["float", "base64", "npy"] = bentoml.Field(
        "float", description="how the embeddings come"
    )
    dtype: Literal["float32", "float16", "int8", "binary"] = bentoml.Field(
        "float32", description="what their numbers are"
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


class SearchInput(_Unparsed):
    """One image, one vector or one key to search for, or several as examples."""

    # BentoML finds no file in an optional path, and its client would not send one.
    image: list[Path] = bentoml.Field(default_factory=list, description="one image, as a file")
    vector: list[float] | None = bentoml.Field(None, description="an embedding of this encoder")
    key: str | None = bentoml.Field(None, description="the key of an item")
    k: int = bentoml.Field(10, description="the most neighbors", ge=1)
    min_score: float | None = bentoml.Field(
        None, description="the least cosine similarity", ge=-1, le=1
    )
    filter: dict[str, Any] | None = bentoml.Field(
        None, description="what a neighbor must have: label or metadata fields"
    )
    positive: list[dict[str, Any]] | None = bentoml.Field(None, description="examples to be like")
    negative: list[dict[str, Any]] | None = bentoml.Field(None, description="to be unlike")
    negative_weight: float | None = bentoml.Field(None, description="of the negative ones", ge=0)
    exact: bool | None = bentoml.Field(None, description="miss nothing, whatever it takes")
    all: bool | None = bentoml.Field(None, description="everything as similar as min_score")
    suggest_label: bool | None = bentoml.Field(None, description="also suggest labels")


class SearchOutput(bentoml.IODescriptor):  # type: ignore[misc]
    """The neighbors, the most similar first."""

    encoder: str = bentoml.Field(description="SHA-256 of the encoder file")
    query: dict[str, Any] = bentoml.Field(description="what was searched for")
    neighbours: list[dict[str, Any]] = bentoml.Field(
        description="key, score, uri, label, metadata and thumbnail of each"
    )
    suggestion: dict[str, Any] | None = bentoml.Field(
        None, description="labels by vote, where they were asked for"
    )


def make_service(engine: Engine) -> bentoml.Service[Any]:
    """Return a service around an engine, which is opened and started with it."""
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
                engine.check()
            except LookalikeError as error:
                sys.exit(f"error: {error}")

        @bentoml.on_startup  # type: ignore[untyped-decorator]
        async def start(self) -> None:
            """Open the encoder and the collection."""
            await asyncio.to_thread(engine.open)
            await engine.start()

        @bentoml.on_shutdown  # type: ignore[untyped-decorator]
        async def stop(self) -> None:
            """Finishes what runs."""
            await engine.stop()

        async def __is_alive__(self) -> bool:
            return engine.alive

        async def __is_ready__(self) -> bool:
            return engine.warm

        @bentoml.api(input_spec=EmbedInput, output_spec=EmbedOutput)  # type: ignore[untyped-decorator]
        async def embed(self, ctx: bentoml.Context) -> Response:
            """Turn images into embeddings: vectors of length one, close where images are alike."""
            return await _answer(ctx, lambda request: embed(engine, request))

        @bentoml.api(input_spec=SearchInput, output_spec=SearchOutput)  # type: ignore[untyped-decorator]
        async def search(self, ctx: bentoml.Context) -> Response:
            """Find the items most similar to an image, a vector or an item."""
            return await _answer(ctx, lambda request: search(engine, request))

    lookalike: bentoml.Service[Any] = Lookalike
    posts = {
        "/embed": partial(embed, engine),
        "/search": partial(search, engine),
        "/v1/embeddings": partial(embeddings, engine),
    }
    lookalike.add_asgi_middleware(Gate, engine=engine, posts=posts)
    describe = cache(lambda: complete(lookalike.openapi_spec.asdict()))
    app = make_app(engine, describe)
    lookalike.mount_asgi_app(app, path="/")
    return lookalike


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


service = make_service(Engine(read_environment))
