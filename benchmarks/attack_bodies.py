"""What `benchmarks.attack` sends: requests each with the answers that are right."""

from __future__ import annotations

import gzip
import io
import json
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable

MANY = 6_000_000
ZEROS = b"0," * MANY + b"0"
JSON = {"Content-Type": "application/json"}
INFER = "/v2/models/lookalike/infer"
LIMITS = frozenset((413, 422))
MULTIPART = {"Content-Type": "multipart/form-data; boundary=x"}


@dataclass(frozen=True)
class Flood:
    """Requests that several clients send at once, again and again.

    Attributes:
        path: of a POST.
        body: made when it is needed.
        right: statuses of right answers, beside 429 and 503 with a Retry-After.
        headers: of the request.
        clients: at once.
        method: of the request.
    """

    path: str
    body: Callable[[], bytes]
    right: frozenset[int] = LIMITS
    headers: dict[str, str] = field(default_factory=lambda: JSON)
    clients: int = 4
    method: str = "POST"


def listed(name: str, element: bytes, count: int) -> Callable[[], bytes]:
    """Return what makes an object with one long list."""
    return lambda: b'{"' + name.encode() + b'":[' + (element + b",") * count + element + b"]}"


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """Return an image file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@cache
def wide_webp() -> bytes:
    """4 KB, 100 million pixels."""
    return encoded(Image.new("RGB", (16383, 6100), "red"), "WEBP", lossless=True, method=0)


@cache
def large_webp() -> bytes:
    """1 KB, 18 million pixels: as much as there is room for."""
    return encoded(Image.new("RGB", (6000, 3000), "red"), "WEBP", lossless=True, method=0)


@cache
def wide_png() -> bytes:
    """100 million pixels in 300 KB."""
    return encoded(Image.new("RGB", (10_000, 10_000), "red"), "PNG")


def many_scans(width: int, height: int, scans: int) -> Callable[[], bytes]:
    """Return what makes a progressive JPEG whose scans say nothing but are gone through."""

    def make() -> bytes:
        noise = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
        image = Image.fromarray(noise).resize((width, height))
        data = encoded(image, "JPEG", progressive=True, quality=30)
        first = data.index(b"\xff\xda")
        second = data.index(b"\xff", first + 12)
        while data[second + 1] == 0:
            second = data.index(b"\xff", second + 1)
        last = data.rindex(b"\xff\xda")
        return data[:-2] + data[last:-2] * scans + b"\xff\xd9"

    return cache(make)


def files(count: int) -> bytes:
    """Return a form of many tiny files."""
    head = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\na\r\n'
    return head * count + b"--x--\r\n"


def fields(count: int) -> bytes:
    """Return a form of many fields."""
    head = b'--x\r\nContent-Disposition: form-data; name="%d"\r\n\r\na\r\n'
    return b"".join([head % number for number in range(count)]) + b"--x--\r\n"


def long_heads() -> bytes:
    """Return a form whose field has a head of 30 MB."""
    return b'--x\r\nContent-Disposition: form-data; name="k"\r\nX: ' + b"a" * 30_000_000


def item(**values: object) -> Callable[[], bytes]:
    """Return what makes a new item, with a vector that is right or not."""
    return lambda: json.dumps({"key": "k", "vector": [0.5] * 512, **values}).encode()


IMAGE = {"Content-Type": "image/webp"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
FLOODS: dict[str, Flood] = {
    "lists of 6 million images": Flood("/embed", listed("images", b"0", MANY)),
    "lists of half a million images": Flood("/embed", listed("images", b"0", 500_000), clients=6),
    "lists of empty lists": Flood("/embed", listed("images", b"[]", MANY)),
    "another name": Flood("/embed", listed("x", b"0", MANY)),
    "half a million examples": Flood("/search", listed("positive", b'{"key":"a"}', 500_000)),
    "a filter of many values": Flood("/search", lambda: b'{"filter":{"a":[' + ZEROS + b"]}}"),
    "a filter of 20,000 names": Flood(
        "/search",
        lambda: json.dumps({"key": "0", "filter": {f"n{n}": 1 for n in range(20_000)}}).encode(),
    ),
    "vectors of 2 million numbers": Flood("/items", item(vector=[0.5] * 2_000_000)),
    "keys of 30 MB": Flood("/items", item(key="k" * 30_000_000)),
    "metadata of 30 MB": Flood("/items", item(metadata={"a": "x" * 30_000_000})),
    "tensors of 6 million numbers": Flood(
        INFER,
        lambda: b'{"inputs":[{"name":"images","shape":[1],"data":[' + ZEROS + b"]}]}",
    ),
    "lists of tokens": Flood("/v1/embeddings", listed("input", b"1", MANY)),
    "deep JSON": Flood("/embed", lambda: b"[" * 30_000_000, frozenset((400,))),
    "escaped quotes": Flood("/embed", lambda: b'{"images":["' + b'\\"' * MANY + b'"]}'),
    "escaped forms": Flood("/search", lambda: b"key=" + b"%41" * MANY, headers=FORM),
    "forms of many files": Flood("/embed", lambda: files(400_000), LIMITS, MULTIPART),
    "forms of many fields": Flood("/search", lambda: fields(400_000), frozenset((400,)), MULTIPART),
    "long heads in forms": Flood("/search", long_heads, frozenset((400,)), MULTIPART),
    "compressed bodies": Flood(
        "/embed",
        lambda: gzip.compress(b'{"images":[' + ZEROS + b"]}"),
        frozenset((415, 413)),
        {**JSON, "Content-Encoding": "gzip"},
    ),
    "WebP of 100 million pixels": Flood("/embed", wide_webp, frozenset((200, 413)), IMAGE, 8),
    "WebP of 18 million pixels": Flood("/embed", large_webp, frozenset((200,)), IMAGE, 8),
    "PNG of 100 million pixels": Flood("/embed", wide_png, frozenset((200, 413)), IMAGE, 8),
    "JPEG of 99 scans": Flood(
        "/embed", many_scans(6000, 4000, 89), frozenset((413, 422)), IMAGE
    ),
    "JPEG of 30 scans": Flood(
        "/embed", many_scans(4000, 3000, 20), frozenset((200, 413, 422)), IMAGE
    ),
}  # fmt: skip
for _name in ("%2e%2e", "..%2f..%2fetc%2fpasswd", "%00", "%ff", "a%0ab", "k" * 60_000):
    FLOODS[f"the key {_name[:24]}"] = Flood(
        f"/items/{_name}", lambda: b"", frozenset((400, 404, 422)), {}, 2, "GET"
    )
