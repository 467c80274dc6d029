"""A small client of the service: embed and search from Python, now or with asyncio.

    from serving.client import Client

    with Client("http://127.0.0.1:3000") as client:
        vectors = client.embed([Path("cat.jpg"), Path("dog.png")])   # float32 [2, E]
        for hit in client.search(image=Path("cat.jpg"), k=3):
            print(hit.score, hit.key)

`AsyncClient` has the same methods, to be awaited. Images travel as they are, embeddings as base64.
A service that is overloaded (429), not ready (503) or restarting is asked again, after the time it
names or a growing one of its own.
"""

import asyncio
import base64
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from base.errors import LookalikeError, UsageError

try:
    import httpx
except ModuleNotFoundError as error:
    message = "the client needs httpx: pip install 'lookalike[serve]'"
    raise ModuleNotFoundError(message, name=error.name) from error

Image = bytes | Path
Vector = Sequence[float] | NDArray[np.float32]
Example = str | Image | Vector  # a text is the key of an item
AGAIN = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 30.0  # seconds


class ServiceError(LookalikeError):
    """The service refused.

    Attributes:
        status: the HTTP status.
        type: the refusal's stable name, `truncated` say; docs/http.md lists them.
        param: what was wrong, or None. For images of `embed`, `images[N]`: N counts from the first
            image of its batch.
    """

    def __init__(self, status: int, type: str, message: str, param: str | None) -> None:  # noqa: A002
        super().__init__(f"{type}: {message}")
        self.status = status
        self.type = type
        self.param = param


@dataclass(frozen=True, slots=True)
class Neighbor:
    """One item that a search found; `score` is its cosine similarity."""

    key: str
    score: float
    uri: str | None
    label: str | None
    metadata: dict[str, Any]
    thumbnail: str


@dataclass(frozen=True, slots=True)
class _Call:
    """One request, made before it is known who sends it."""

    path: str
    params: dict[str, Any] = field(default_factory=dict)
    files: list[tuple[str, tuple[str, bytes]]] | None = None
    json: dict[str, Any] | None = None


class _Base:
    """What both clients share: how requests are made and answers read."""

    def __init__(
        self, url: str, *, api_key: str | None = None, timeout: float = 60.0, retries: int = 6
    ) -> None:
        """Make the client; nothing is sent yet.

        Args:
            url: of the service, http://127.0.0.1:3000 say.
            api_key: sent with every request, if the service asks for one.
            timeout: seconds for one try.
            retries: how often a service that is busy is asked again.
        """
        self._options: dict[str, Any] = {
            "base_url": url,
            "timeout": timeout,
            "headers": {"Authorization": f"Bearer {api_key}"} if api_key else {},
        }
        self._retries = retries

    def _pauses(self) -> Iterator[float]:
        """Seconds before each further try: they double, and no two clients keep in step."""
        for number in range(self._retries):
            yield min(LONGEST_PAUSE, FIRST_PAUSE * 2**number) * random.uniform(0.5, 1.5)  # noqa: S311


class Client(_Base):
    """The client that waits for its answers; safe to use from several threads."""

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        self._http = httpx.Client(**self._options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def embed(self, images: Sequence[Image], *, batch: int = 16) -> NDArray[np.float32]:
        """Embeds encoded images, or files of them.

        Args:
            images: JPEG, PNG, … as bytes, or paths.
            batch: images of one request.

        Returns:
            float32 [N, E], rows of length one.

        Raises:
            ServiceError: the service refused, also a single image.
            httpx.TransportError: it cannot be reached.
        """
        return _joined([_vectors(self._ask(call)) for call in _embed_calls(images, batch)])

    def search(
        self,
        *,
        image: Image | None = None,
        vector: Vector | None = None,
        key: str | None = None,
        positive: Sequence[Example] = (),
        negative: Sequence[Example] = (),
        k: int = 10,
        min_score: float | None = None,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - the word of the HTTP interface
        exact: bool = False,
    ) -> list[Neighbor]:
        """Find the items most similar to an image, an embedding, an item or several of them.

        Args:
            image: encoded, or a path.
            vector: [E].
            key: of an item, which is not found itself.
            positive: instead of these three, examples of what is looked for.
            negative: examples of what is not.
            k: the most neighbors.
            min_score: leave out what is less similar; cosine in [-1, 1].
            filter: what a neighbor must have.
            exact: miss nothing, whatever recall the collection promises.

        Raises:
            ServiceError, httpx.TransportError: as `embed`.
        """
        fields = {"key": key, "k": k, "min_score": min_score, "filter": filter, "exact": exact}
        call = _search_call(image, vector, positive, negative, fields)
        return _neighbors(self._ask(call))

    def _ask(self, call: _Call) -> dict[str, Any]:
        pauses = self._pauses()
        while True:
            try:
                answer = self._http.post(
                    call.path, params=call.params, files=call.files, json=call.json
                )
            except httpx.ConnectError:
                if (pause := next(pauses, None)) is None:
                    raise
            else:
                pause = next(pauses, None) if answer.status_code in AGAIN else None
                if pause is None:
                    return _content(answer)
                pause = max(pause, _asked_for(answer))
            time.sleep(pause)


class AsyncClient(_Base):
    """The same for asyncio; see `Client` for what its methods take and give."""

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        self._http = httpx.AsyncClient(**self._options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def embed(self, images: Sequence[Image], *, batch: int = 16) -> NDArray[np.float32]:
        """As `Client.embed`, two batches at a time: one is on its way while one is worked on."""
        gate = asyncio.Semaphore(2)

        async def ask(call: _Call) -> NDArray[np.float32]:
            async with gate:
                return _vectors(await self._ask(call))

        return _joined(await asyncio.gather(*map(ask, _embed_calls(images, batch))))

    async def search(
        self,
        *,
        image: Image | None = None,
        vector: Vector | None = None,
        key: str | None = None,
        positive: Sequence[Example] = (),
        negative: Sequence[Example] = (),
        k: int = 10,
        min_score: float | None = None,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - the word of the HTTP interface
        exact: bool = False,
    ) -> list[Neighbor]:
        """As `Client.search`."""
        fields = {"key": key, "k": k, "min_score": min_score, "filter": filter, "exact": exact}
        call = _search_call(image, vector, positive, negative, fields)
        return _neighbors(await self._ask(call))

    async def _ask(self, call: _Call) -> dict[str, Any]:
        pauses = self._pauses()
        while True:
            try:
                answer = await self._http.post(
                    call.path, params=call.params, files=call.files, json=call.json
                )
            except httpx.ConnectError:
                if (pause := next(pauses, None)) is None:
                    raise
            else:
                pause = next(pauses, None) if answer.status_code in AGAIN else None
                if pause is None:
                    return _content(answer)
                pause = max(pause, _asked_for(answer))
            await asyncio.sleep(pause)


def _embed_calls(images: Sequence[Image], batch: int) -> Iterator[_Call]:
    if batch < 1:
        raise UsageError(f"batch is {batch}: give at least 1")
    for start in range(0, len(images), batch):
        files = [("images", _file(image)) for image in images[start : start + batch]]
        yield _Call("/embed", {"encoding_format": "base64"}, files)


def _search_call(
    image: Image | None,
    vector: Vector | None,
    positive: Sequence[Example],
    negative: Sequence[Example],
    fields: dict[str, Any],
) -> _Call:
    for one in (image, vector):
        fields |= {} if one is None else _example(one)
    for name, examples in (("positive", positive), ("negative", negative)):
        fields[name] = [_example(one) for one in examples] or None
    return _Call("/search", json={name: v for name, v in fields.items() if v is not None})


def _example(one: Example) -> dict[str, Any]:
    if isinstance(one, str):
        return {"key": one}
    if isinstance(one, bytes | Path):
        return {"image": base64.b64encode(_file(one)[1]).decode()}
    return {"vector": np.asarray(one, np.float32).tolist()}


def _file(image: Image) -> tuple[str, bytes]:
    return ("image", image) if isinstance(image, bytes) else (image.name, image.read_bytes())


def _content(answer: httpx.Response) -> dict[str, Any]:
    try:
        content = answer.json()
    except ValueError:  # a proxy's answer, not the service's
        content = None
    if answer.is_success and isinstance(content, dict):
        return content
    error = content.get("error") if isinstance(content, dict) else None
    if not isinstance(error, dict):
        text = answer.text[:200]
        raise ServiceError(answer.status_code, "not-the-service", f"it answered {text!r}", None)
    raise ServiceError(
        answer.status_code,
        str(error.get("type")),
        str(error.get("message")),
        error.get("param"),
    )


def _asked_for(answer: httpx.Response) -> float:
    """Return the seconds of Retry-After; a date there, or nothing, asks for none."""
    given = answer.headers.get("retry-after", "")
    return min(LONGEST_PAUSE, float(given)) if given.isdecimal() else 0.0


def _vectors(content: dict[str, Any]) -> NDArray[np.float32]:
    for refused in content["errors"]:
        raise ServiceError(422, refused["type"], refused["message"], refused["param"])
    texts = content["embeddings"]
    return np.stack([np.frombuffer(base64.b64decode(text), "<f4") for text in texts])


def _joined(batches: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.concatenate(batches) if batches else np.empty((0, 0), np.float32)


def _neighbors(content: dict[str, Any]) -> list[Neighbor]:
    return [Neighbor(**one) for one in content["neighbours"]]
