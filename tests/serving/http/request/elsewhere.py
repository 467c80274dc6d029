"""Another server on this machine, from which a service fetches good and bad images."""

import contextlib
import gzip
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from serving.http.policy.settings import Settings
from serving.http.policy.url_policy import Address, is_public
from serving.http.request.fetching import Fetcher

HOST = "images.test"
MOST = 100_000  # bytes of an image


@dataclass
class Elsewhere:
    """A server with good and bad images."""

    image: bytes
    port: int = 0
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    at_once: int = 0
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def base(self) -> str:
        return f"http://{HOST}:{self.port}/shop/"

    def redirects(self, name: str) -> str | None:
        """Where a path leads to."""
        if name.startswith("hop"):
            return self.base + (f"hop{int(name[3:]) - 1}" if name != "hop0" else "good")
        return {
            "relative": "good",
            "upwards": "../secret",
            "outside": f"http://{HOST}:{self.port}/secret",
            "metadata": "http://169.254.169.254/latest/meta-data/",
            "another-host": f"http://127.0.0.1:{self.port}/shop/good",
            "another-port": f"http://{HOST}:1/shop/good",
            "file": "file:///etc/passwd",
            "nonsense": "http://[",
        }.get(name)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.requests.append((handler.path, dict(handler.headers)))
        name = handler.path.removeprefix("/shop/").partition("?")[0]
        bodies = {"good": self.image, "text": b"<html>no picture</html>", "empty": b""}
        if location := self.redirects(name):
            return self.send(handler, 302, b"", location=location)
        if name in bodies:
            return self.send(handler, 200, bodies[name])
        match name:
            case "cookie":
                self.send(handler, 200, self.image, set_cookie="a=b; Path=/")
            case "gzip":
                bomb = gzip.compress(b"\0" * 10_000_000)
                self.send(handler, 200, bomb, content_encoding="gzip")
            case "announced":
                self.send(handler, 200, b"", length=10**9)
            case "shorter":
                self.send(handler, 200, self.image[:50], length=len(self.image))
            case "endless" | "slow" | "counted":
                self.go_on(handler, name)
            case "no-http":
                handler.wfile.write(b"SSH-2.0-OpenSSH\r\n\r\n")
                handler.close_connection = True
            case _:
                self.send(handler, 404, b"not here")
        return None

    @staticmethod
    def send(
        handler: BaseHTTPRequestHandler,
        status: int,
        body: bytes,
        length: int | None = None,
        **headers: str,
    ) -> None:
        handler.send_response(status)
        for key, value in headers.items():
            handler.send_header(key.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body) if length is None else length))
        handler.end_headers()
        handler.wfile.write(body)

    def go_on(self, handler: BaseHTTPRequestHandler, name: str) -> None:
        handler.send_response(200)
        handler.end_headers()
        if name == "endless":
            while not self.over.is_set():
                handler.wfile.write(b"\xff\xd8" * 4096)
        with self.lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        handler.wfile.write(self.image[:10])
        self.over.wait(20)
        with self.lock:
            self.at_once -= 1
        if name == "counted":
            handler.wfile.write(self.image[10:])


@contextlib.contextmanager
def listening_elsewhere(image: bytes) -> Iterator[Elsewhere]:
    """The server while it listens."""
    server = Elsewhere(image)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.close_connection = True
            with contextlib.suppress(OSError):  # the other side has heard enough
                server.answer(self)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        server.port = listening.server_address[1]
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.over.set()
        listening.shutdown()
        thread.join()


@dataclass
class Names:
    """A name server: for each question the next of its answers, the last one again and again."""

    answers: Sequence[Sequence[str]] = (["127.0.0.1"],)
    hosts: list[str] = field(default_factory=list)

    def __call__(self, host: str, _port: int) -> Sequence[str]:
        self.hosts.append(host)
        answer = self.answers[min(len(self.hosts), len(self.answers)) - 1]
        if not answer:
            raise OSError("no such host")
        return answer


def loopback_too(address: Address) -> bool:
    """The check of addresses for tests, whose only server is on this machine."""
    return str(address) == "127.0.0.1" or is_public(address)


def fetcher(
    server: Elsewhere,
    names: Names,
    allowed: Callable[[Address], bool] = loopback_too,
    **settings: Any,
) -> Fetcher:
    values = {"url_prefixes": server.base, "max_image_bytes": MOST, **settings}
    return Fetcher(Settings(**values), resolve=names, allowed=allowed)
