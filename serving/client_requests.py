"""What the clients of the service send and read: requests, answers, and pauses between tries."""

from __future__ import annotations

import base64
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from base.errors import LookalikeError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

Image = bytes | Path
Vector = Sequence[float] | NDArray[np.float32]
Change = Literal["added", "replaced", "unchanged"]
Example = str | Image | Vector  # a text is the key of an item
BUSY = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
LOST = (
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.GATEWAY_TIMEOUT,
)  # of a proxy: nobody knows what was done
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 30.0  # seconds


class ServiceError(LookalikeError):
    """The service refused.

    Attributes:
        status: the HTTP status.
        type: the refusal's stable name, `truncated` for example; docs/http.md lists them.
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
class Item:
    """One item of the collection; `vector` is float32 [E] where it was requested."""

    key: str
    uri: str | None
    label: str | None
    width: int | None
    height: int | None
    sha256: str | None
    metadata: dict[str, Any]
    thumbnail: str
    vector: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """One request, made before it is known who sends it.

    Attributes:
        repeatable: sending it twice does what sending it once does.
    """

    path: str
    params: dict[str, Any] = field(default_factory=dict)
    files: list[tuple[str, tuple[str, bytes]]] | None = None
    json: dict[str, Any] | None = None
    method: str = "POST"
    repeatable: bool = True


class Pauses:
    """Seconds before each further try of one call: they double, and no two clients keep in step."""

    def __init__(self, retries: int, *, repeatable: bool = True) -> None:
        self._remaining = iter(range(retries))
        self._repeatable = repeatable

    def after_no_connection(self) -> float | None:
        """Return the next pause; None if it was the last try."""
        if (number := next(self._remaining, None)) is None:
            return None
        return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**number) * random.uniform(0.5, 1.5)  # noqa: S311

    def after_lost(self) -> float | None:
        """Return the next pause after a connection that ended before the answer."""
        return self.after_no_connection() if self._repeatable else None

    def after(self, answer: httpx.Response) -> float | None:
        """Return the next pause, at least that of Retry-After; None if the answer counts."""
        if answer.status_code not in BUSY and not (self._repeatable and answer.status_code in LOST):
            return None
        pause = self.after_no_connection()
        return None if pause is None else max(pause, _retry_after(answer))


def embed_calls(images: Sequence[Image], batch: int) -> Iterator[Call]:
    """Yield the requests that embed images, `batch` of them at once."""
    if batch < 1:
        raise UsageError(f"batch is {batch}: give at least 1")
    for start in range(0, len(images), batch):
        files = [("images", _file(image)) for image in images[start : start + batch]]
        yield Call("/embed", {"encoding_format": "base64"}, files)


def search_call(
    image: Image | None,
    vector: Vector | None,
    positive: Sequence[Example],
    negative: Sequence[Example],
    fields: dict[str, Any],
) -> Call:
    """Return the request of a search; of `fields` those that are None are left out."""
    for query in (image, vector):
        fields |= {} if query is None else _example(query)
    for name, examples in (("positive", positive), ("negative", negative)):
        fields[name] = [_example(example) for example in examples] or None
    return Call("/search", json={name: v for name, v in fields.items() if v is not None})


def add_call(
    key: str,
    image: Image | None,
    vector: Vector | None,
    fields: dict[str, Any],
    on_duplicate: str,
) -> Call:
    """Return the request that adds an item; of `fields` those that are None are left out."""
    item = {"key": key, **{name: value for name, value in fields.items() if value is not None}}
    for source in (image, vector):
        item |= {} if source is None else _example(source)
    content = {"items": [item], "on_duplicate": on_duplicate}
    return Call("/items", json=content, repeatable=on_duplicate == "replace")


def item_call(method: str, key: str, **params: Any) -> Call:
    """Return a request about one item."""
    path = f"/items/{quote(key, safe='')}"
    return Call(path, params, method=method, repeatable=method == "GET")


def list_call(after: str | None, limit: int) -> Call:
    """Return the request of a page of items."""
    after_key = {} if after is None else {"after": after}
    return Call("/items", {"limit": limit, **after_key}, method="GET")


def _example(example: Example) -> dict[str, Any]:
    if isinstance(example, str):
        return {"key": example}
    if isinstance(example, bytes | Path):
        return {"image": base64.b64encode(_file(example)[1]).decode()}
    return {"vector": np.asarray(example, np.float32).tolist()}


def _file(image: Image) -> tuple[str, bytes]:
    return ("image", image) if isinstance(image, bytes) else (image.name, image.read_bytes())


def content_of(answer: httpx.Response) -> dict[str, Any]:
    """Return the JSON object of an answer.

    Raises:
        ServiceError: the service refused, or something else answered.
    """
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


def _retry_after(answer: httpx.Response) -> float:
    """Return the seconds of Retry-After; 0 for a date, or without it."""
    seconds = answer.headers.get("retry-after", "")
    return min(LONGEST_PAUSE, float(seconds)) if seconds.isdecimal() else 0.0


def vectors_of(content: dict[str, Any]) -> NDArray[np.float32]:
    """Return the embeddings of an answer, float32 [B,E].

    Raises:
        ServiceError: an image was refused.
    """
    for refused in content["errors"]:
        raise ServiceError(422, refused["type"], refused["message"], refused["param"])
    texts = content["embeddings"]
    return np.stack([np.frombuffer(base64.b64decode(text), "<f4") for text in texts])


def joined(batches: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return the embeddings of all batches, float32 [N,E]; [0,0] if there are none."""
    return np.concatenate(batches) if batches else np.empty((0, 0), np.float32)


def neighbors_of(content: dict[str, Any]) -> list[Neighbor]:
    """Return the hits of a search."""
    return [Neighbor(**_values_for(Neighbor, one)) for one in content["neighbours"]]


def item_of(content: dict[str, Any]) -> Item:
    """Return an item of an answer."""
    values = _values_for(Item, content)
    if values.get("vector") is not None:
        values["vector"] = np.asarray(values["vector"], np.float32)
    return Item(**values)


def change_of(content: dict[str, Any]) -> Change:
    """Return what adding an item did."""
    changes: tuple[Change, ...] = ("added", "replaced", "unchanged")
    return next(change for change in changes if content[change])


def _values_for(kind: type[Neighbor | Item], content: dict[str, Any]) -> dict[str, Any]:
    """Return the values that a class has fields for: a newer service may send more."""
    names = {one.name for one in fields(kind)}
    return {name: value for name, value in content.items() if name in names}
