"""A small client of the service: embed and search from Python, now or with asyncio.

    from serving.client import Client

    with Client("http://127.0.0.1:3000") as client:
        vectors = client.embed([Path("cat.jpg"), Path("dog.png")])   # float32 [2, E]
        for hit in client.search(image=Path("cat.jpg"), k=3):
            print(hit.score, hit.key)

`AsyncClient` has the same methods, to be awaited. Images travel as they are, embeddings as base64.
Where the service is overloaded (429), not ready (503) or restarting, the request is repeated after
the time that the service names, or after growing pauses. So are requests whose connection or proxy
failed (502, 504), if sending them twice does no harm: not `delete`, nor `add` without `replace`.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from serving.client_requests import (
    Call,
    Change,
    Example,
    Image,
    Item,
    Neighbor,
    Pauses,
    ServiceError,
    Vector,
    add_call,
    change_of,
    content_of,
    embed_calls,
    item_call,
    item_of,
    joined,
    list_call,
    neighbors_of,
    search_call,
    vectors_of,
)

try:
    import httpx
except ModuleNotFoundError as error:
    message = "the client needs httpx: pip install 'lookalike[serve]'"
    raise ModuleNotFoundError(message, name=error.name) from error

__all__ = ["AsyncClient", "Client", "Example", "Image", "Item"]
__all__ += ["Neighbor", "ServiceError", "Vector"]
RESETS = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)


class _Base:
    """The options of both clients."""

    def __init__(
        self, url: str, *, api_key: str | None = None, timeout: float = 60.0, retries: int = 6
    ) -> None:
        """Make the client; nothing is sent yet.

        Args:
            url: of the service, `http://127.0.0.1:3000` for example.
            api_key: sent with every request, if the service needs one.
            timeout: seconds for one try.
            retries: how often a request is repeated while the service is busy.
        """
        self._options: dict[str, Any] = {
            "base_url": url,
            "timeout": timeout,
            "headers": {"Authorization": f"Bearer {api_key}"} if api_key else {},
        }
        self._retries = retries


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
        """Embed encoded images, or files of them.

        Args:
            images: JPEG, PNG, … as bytes, or paths.
            batch: images of one request.

        Returns:
            float32 [N, E], rows of length one.

        Raises:
            ServiceError: the service refused, also a single image.
            httpx.TransportError: it cannot be reached.
        """
        return joined([vectors_of(self._send(call)) for call in embed_calls(images, batch)])

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
        call = search_call(image, vector, positive, negative, fields)
        return neighbors_of(self._send(call))

    def add(
        self,
        key: str,
        *,
        image: Image | None = None,
        vector: Vector | None = None,
        label: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        uri: str | None = None,
        on_duplicate: Literal["refuse", "replace"] = "refuse",
    ) -> Change:
        """Add an item by its image or its vector.

        Args:
            key: unique in the collection.
            image: encoded, or a path.
            vector: [E], instead of an image.
            label: the class, if one is known.
            metadata: a JSON object.
            uri: an http:// or https:// link, to be shown.
            on_duplicate: what to do where the key is there already.

        Raises:
            ServiceError, httpx.TransportError: as `embed`.
        """
        fields = {"label": label, "metadata": metadata, "uri": uri}
        return change_of(self._send(add_call(key, image, vector, fields, on_duplicate)))

    def get(self, key: str, *, vector: bool = False) -> Item:
        """Return an item, with its vector on request; ServiceError 404 where there is none."""
        return item_of(self._send(item_call("GET", key, vector=vector)))

    def delete(self, key: str) -> None:
        """Remove an item; ServiceError 404 where there is none."""
        self._send(item_call("DELETE", key))

    def list_items(self, *, after: str | None = None, limit: int = 100) -> list[Item]:
        """Return a page of items in the order of their keys: at most `limit` behind a key."""
        page = self._send(list_call(after, limit))
        return [item_of(one) for one in page["items"]]

    def _send(self, call: Call) -> dict[str, Any]:
        pauses = Pauses(self._retries, repeatable=call.repeatable)
        options: dict[str, Any] = {"params": call.params, "files": call.files, "json": call.json}
        while True:
            try:
                answer = self._http.request(call.method, call.path, **options)
            except httpx.ConnectError:
                if (pause := pauses.after_no_connection()) is None:
                    raise
            except RESETS:
                if (pause := pauses.after_lost()) is None:
                    raise
            else:
                if (pause := pauses.after(answer)) is None:
                    return content_of(answer)
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
        slots = asyncio.Semaphore(2)

        async def embedded(call: Call) -> NDArray[np.float32]:
            async with slots:
                return vectors_of(await self._send(call))

        return joined(await asyncio.gather(*map(embedded, embed_calls(images, batch))))

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
        call = search_call(image, vector, positive, negative, fields)
        return neighbors_of(await self._send(call))

    async def add(
        self,
        key: str,
        *,
        image: Image | None = None,
        vector: Vector | None = None,
        label: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        uri: str | None = None,
        on_duplicate: Literal["refuse", "replace"] = "refuse",
    ) -> Change:
        """As `Client.add`."""
        fields = {"label": label, "metadata": metadata, "uri": uri}
        return change_of(await self._send(add_call(key, image, vector, fields, on_duplicate)))

    async def get(self, key: str, *, vector: bool = False) -> Item:
        """As `Client.get`."""
        return item_of(await self._send(item_call("GET", key, vector=vector)))

    async def delete(self, key: str) -> None:
        """As `Client.delete`."""
        await self._send(item_call("DELETE", key))

    async def list_items(self, *, after: str | None = None, limit: int = 100) -> list[Item]:
        """As `Client.list_items`."""
        page = await self._send(list_call(after, limit))
        return [item_of(one) for one in page["items"]]

    async def _send(self, call: Call) -> dict[str, Any]:
        pauses = Pauses(self._retries, repeatable=call.repeatable)
        options: dict[str, Any] = {"params": call.params, "files": call.files, "json": call.json}
        while True:
            try:
                answer = await self._http.request(call.method, call.path, **options)
            except httpx.ConnectError:
                if (pause := pauses.after_no_connection()) is None:
                    raise
            except RESETS:
                if (pause := pauses.after_lost()) is None:
                    raise
            else:
                if (pause := pauses.after(answer)) is None:
                    return content_of(answer)
            await asyncio.sleep(pause)
