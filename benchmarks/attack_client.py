"""The client that `benchmarks.attack` runs beside its attacks, in a process of its own."""

from __future__ import annotations

import http.client
import time
from typing import TYPE_CHECKING

from benchmarks.sample_images import photos

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

IMAGES = 8  # of its request


def ask(port: int, method: str, path: str, body: bytes, headers: dict[str, str]) -> int | str:
    """Return the status of an answer, or how there was none; it may come before all is sent."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=100)
    try:
        try:
            connection.request(method, path, body, headers)
        except (BrokenPipeError, ConnectionResetError):
            if connection.sock is None:
                return "reset"
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    else:
        return answer.status
    finally:
        connection.close()


def be_polite(port: int, seconds: float, pipe: Connection) -> None:
    """Ask one thing after the other, and send the seconds that each took, and how many failed."""
    images, _ = photos(IMAGES)
    form = b"\r\n".join(
        b'--x\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n' + image
        for image in images
    )
    multipart = {"Content-Type": "multipart/form-data; boundary=x"}
    search = b'{"key": "1"}', {"Content-Type": "application/json"}
    form += b"\r\n--x--\r\n"
    requests: list[tuple[str, str, bytes, dict[str, str]]] = [
        ("POST", "/embed", form, multipart),
        ("POST", "/search", *search),
        ("GET", "/items/2", b"", {}),
    ]
    for request in requests:
        ask(port, *request)
    pipe.send("ready")
    pipe.recv()
    times: list[float] = []
    bad = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(times) < 2:
        begun = time.perf_counter()
        bad += sum(ask(port, *request) != 200 for request in requests)
        times.append(time.perf_counter() - begun)
        time.sleep(0.01)
    pipe.send((times, bad))
