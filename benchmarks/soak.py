"""Keep a service busy with mixed requests and watch its memory and its collection.

    python -m benchmarks.soak [--seconds 1800] [--requests 200000] [--encoder FILE]

Ends after whichever comes first. Eight clients send single images, batches, refused files,
OpenAI's and KServe's protocols, searches by image and by key, thumbnails, and items that they add
and remove again. Prints one JSON object: requests, answers by status, unexpected ones, by how much
the resident memory grew after the first tenth, and whether the collection holds at the end what it
was told to. Exit code 1: an unexpected answer, a lost item, or growth of 5 % or more.
"""

from __future__ import annotations

import argparse
import base64
import itertools
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from base.memory import resident_memory
from benchmarks.sample_images import photos, random_resnet
from benchmarks.servers import Target, started
from export.encoder_file.encoder_file import describe
from serving.collection import create_collection, open_collection

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CLIENTS = 8
MOST_GROWTH = 0.05
KEPT = 200  # items a client leaves in the collection before it removes the oldest
JSON = {"Content-Type": "application/json"}

Request = tuple[int, str, str, dict[str, Any]]  # expected status, method, path, what httpx takes


class Soak:
    """The clients' shared account."""

    def __init__(self, url: str, images: list[bytes], seconds: float, requests: int) -> None:
        self.url = url
        self.images = images
        self.end = time.monotonic() + seconds
        self.requests = requests
        self.done = itertools.count()
        self.count = 0
        self.statuses: Counter[int] = Counter()
        self.unexpected: list[str] = []

    def run(self, process: int, every: float) -> list[int]:
        """Run all clients; returns the process' resident KiB, sampled every so many seconds."""
        clients = [Client(self, number) for number in range(CLIENTS)]
        for client in clients:
            client.start()
        samples = []
        while any(client.is_alive() for client in clients):
            time.sleep(every)
            samples.append(resident(process))
        self.keys = {key for client in clients for key in client.keys}
        return samples

    @property
    def over(self) -> bool:
        """Whether it is time to end."""
        return time.monotonic() > self.end or self.count >= self.requests


class Client(threading.Thread):
    """Sends mixed requests, one after the other, and keeps account of its items."""

    def __init__(self, soak: Soak, number: int) -> None:
        super().__init__()
        self.soak = soak
        self.number = number
        self.keys: list[str] = []

    def run(self) -> None:
        """Until the soak is over."""
        with httpx.Client(base_url=self.soak.url, timeout=120) as http:
            for request in self.requests():
                if self.soak.over:
                    return
                self.soak.count = next(self.soak.done) + 1
                self._send(http, request)

    def _send(self, http: httpx.Client, request: Request) -> None:
        expected, method, path, content = request
        while True:
            try:
                status = http.request(method, path, **content).status_code
            except httpx.TransportError as error:
                self.soak.unexpected.append(f"{method} {path}: {error!r}")
                return
            self.soak.statuses[status] += 1
            if status != 429:
                break
            time.sleep(0.05)
        if status != expected:
            self.soak.unexpected.append(f"{method} {path}: {status}")

    def requests(self) -> Iterator[Request]:
        """All kinds of request in turn, over and over."""
        for round_ in itertools.count(self.number):
            image = self.soak.images[round_ % len(self.soak.images)]
            yield from embeddings(image, self.soak.images[round_ % 100 :][:8])
            key = f"client-{self.number}/{round_:07}"
            fields = {"key": key, "label": "soak", "metadata": json.dumps({"round": round_})}
            yield 201, "POST", "/items", {"files": {"image": image}, "data": fields}
            self.keys.append(key)
            path = f"/items/{key.replace('/', '%2F')}"
            yield from searches(image, key, path)
            if len(self.keys) > KEPT:
                oldest = self.keys[0].replace("/", "%2F")
                yield 200, "DELETE", f"/items/{oldest}", {}
                del self.keys[0]  # now: the soak may have ended before it was sent


def embeddings(image: bytes, several: list[bytes]) -> Iterable[Request]:
    """Good and bad images, in every protocol."""
    yield 200, "POST", "/embed", {"files": {"images": image}}
    yield 200, "POST", "/embed", {"files": [("images", one) for one in several]}
    yield 422, "POST", "/embed", {"files": {"images": image[: len(image) // 2]}}
    yield 200, "POST", "/embed", {"content": image, "headers": {"Content-Type": "image/jpeg"}}
    text = base64.b64encode(image).decode()
    yield 200, "POST", "/v1/embeddings", {"json": {"model": "lookalike", "input": text}}
    encoded = {"name": "encoded", "datatype": "BYTES", "shape": [1], "data": [text]}
    yield 200, "POST", "/v2/models/lookalike/infer", {"json": {"inputs": [encoded]}}
    yield 400, "POST", "/embed", {"content": b"{", "headers": JSON}


def searches(image: bytes, key: str, path: str) -> Iterable[Request]:
    """Of an item that has just been added."""
    yield 200, "POST", "/search", {"files": {"image": image}, "data": {"k": 20}}
    yield 200, "POST", "/search", {"json": {"key": key, "filter": {"label": "soak"}}}
    yield 409, "POST", "/items", {"files": {"image": image}, "data": {"key": key}}
    yield 200, "GET", f"{path}/thumbnail", {}
    yield 200, "GET", f"{path}/similar?k=5", {}
    yield 404, "GET", "/items/nobody", {}
    yield 200, "GET", "/metrics", {}


def resident(process: int) -> int:
    """Resident memory in KiB."""
    size = resident_memory(process)
    if size is None:
        raise ProcessLookupError(f"process {process} has ended")
    return size // 1024


def held(collection: Path) -> set[str]:
    """Return the keys of a collection."""
    keys: set[str] = set()
    with open_collection(collection, load_index=False) as opened:
        after = None
        while page := opened.keys(after=after):
            keys.update(page)
            after = page[-1]
    return keys


def soak(target: Target, images: list[bytes], options: argparse.Namespace) -> dict[str, Any]:
    """Soak a service; return what came of it, but for the collection."""
    work = Soak(f"http://127.0.0.1:{target.port}", images, options.seconds, options.requests)
    begun = time.monotonic()
    samples = work.run(target.process.pid, options.seconds / 200)
    base = max(samples[: max(1, len(samples) // 10)])
    return {
        "requests": work.count,
        "seconds": round(time.monotonic() - begun, 1),
        "statuses": dict(sorted(work.statuses.items())),
        "unexpected": work.unexpected[:20],
        "resident_mib_after_a_tenth": round(base / 1024, 1),
        "resident_mib_at_most_later": round(max(samples) / 1024, 1),
        "resident_mib_tenths": [
            round(samples[len(samples) * tenth // 10] / 1024, 1) for tenth in range(10)
        ],
        "growth": round(max(samples[len(samples) // 10 :]) / base - 1, 4),
        "keys": work.keys,
    }


def main() -> None:
    """Soak and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--encoder", type=Path, help="instead of a ResNet-18 with random weights")
    options = parser.parse_args()
    images, _ = photos(256)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        encoder = options.encoder or random_resnet(folder / "encoder.onnx")
        facts = describe(encoder)
        shop = folder / "shop"
        create_collection(shop, facts["sha256"], facts["contract"]["embedding_dim"]).close()
        with started("lookalike", encoder, folder, images[0], shop) as target, target.awake():
            result = soak(target, images, options)
        expected, there = result.pop("keys"), held(shop)
    result |= {"items": len(there), "lost": len(expected - there), "back": len(there - expected)}
    print(json.dumps(result))
    bad = result["unexpected"] or result["growth"] >= MOST_GROWTH or expected != there
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
