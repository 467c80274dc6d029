"""Keeps a service busy with mixed requests and watches its memory.

    python -m benchmarks.soak [--seconds 1800] [--requests 200000]

Ends after whichever comes first. Single pictures, batches, refused files and a public protocol,
from 8 clients. Prints one JSON object: requests, unexpected answers, and by how much the resident
memory grew after the first tenth. Exit code 1: an unexpected answer, or growth of 5 % or more.
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
from pathlib import Path
from typing import Any

import httpx

from benchmarks.pictures import photos, random_resnet
from benchmarks.servers import started

CLIENTS = 8
MOST_GROWTH = 0.05


class Soak:
    """The clients' shared account."""

    def __init__(self, url: str, pictures: list[bytes], seconds: float, requests: int) -> None:
        self.url = url
        self.pictures = pictures
        self.end = time.monotonic() + seconds
        self.requests = requests
        self.done = itertools.count()
        self.count = 0
        self.unexpected: list[str] = []

    def client(self, number: int) -> None:
        """Sends mixed requests until the end."""
        with httpx.Client(base_url=self.url, timeout=120) as http:
            while time.monotonic() < self.end and self.count < self.requests:
                self.count = next(self.done) + 1
                wanted, request = self.mixed(number + self.count)
                try:
                    status = http.post(**request).status_code
                except httpx.TransportError as error:
                    self.unexpected.append(repr(error))
                    continue
                if status not in (wanted, 429):
                    self.unexpected.append(f"{request['url']}: {status}")

    def mixed(self, number: int) -> tuple[int, dict[str, Any]]:
        """The status that one of five kinds of request should get, and the request."""
        picture = self.pictures[number % len(self.pictures)]
        match number % 5:
            case 0:
                batch = [("images", one) for one in self.pictures[number % 100 :][:8]]
                return 200, {"url": "/embed", "files": batch}
            case 1:
                return 422, {"url": "/embed", "files": {"images": picture[: len(picture) // 2]}}
            case 2:
                text = base64.b64encode(picture).decode()
                return 200, {"url": "/v1/embeddings", "json": {"input": text}}
            case _:
                return 200, {"url": "/embed", "files": {"images": picture}}


def resident(process: int) -> int:
    """Resident memory in KiB."""
    fields = Path(f"/proc/{process}/status").read_text().split("VmRSS:")[1]
    return int(fields.split()[0])


def main() -> None:
    """Soaks and prints what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--requests", type=int, default=200_000)
    options = parser.parse_args()
    pictures, _ = photos(256)
    with tempfile.TemporaryDirectory() as name:
        encoder = random_resnet(Path(name) / "encoder.onnx")
        with started("lookalike", encoder, Path(name), pictures[0]) as target, target.awake():
            soak = Soak(
                f"http://127.0.0.1:{target.port}", pictures, options.seconds, options.requests
            )
            clients = [threading.Thread(target=soak.client, args=(n,)) for n in range(CLIENTS)]
            for client in clients:
                client.start()
            samples = []
            while any(client.is_alive() for client in clients):
                time.sleep(options.seconds / 200)
                samples.append(resident(target.process.pid))
            for client in clients:
                client.join()
    base = max(samples[: max(1, len(samples) // 10)])
    growth = max(samples[len(samples) // 10 :]) / base - 1
    result = {
        "requests": soak.count,
        "unexpected": soak.unexpected[:20],
        "resident_mib_after_a_tenth": round(base / 1024, 1),
        "resident_mib_at_most_later": round(max(samples) / 1024, 1),
        "growth": round(growth, 4),
    }
    print(json.dumps(result))
    sys.exit(bool(soak.unexpected) or growth >= MOST_GROWTH)


if __name__ == "__main__":
    main()
