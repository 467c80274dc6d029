"""The load that serving benchmarks put on: it counts what came back, at the pace it was told."""

import asyncio
import itertools
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from benchmarks.load import Load, Order, Result

BODY = b"x" * 1000


class Alternating(BaseHTTPRequestHandler):
    """Answers 200 and 429 in turn."""

    protocol_version = "HTTP/1.1"
    number = itertools.count()

    def do_POST(self) -> None:
        assert self.rfile.read(int(self.headers["Content-Length"])) == BODY
        self.send_response(429 if next(self.number) % 2 else 200)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"done")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Alternating)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def run(port: int, body: Path, *, clients: int = 0, rate: float = 0.0) -> Result:
    order = Order(
        port=port,
        path="/embed",
        content_type="image/jpeg",
        bodies=[str(body)],
        seconds=1.0,
        lead=0.2,
        clients=clients,
        rate=rate,
    )
    return asyncio.run(Load(order).run())


def test_closed_and_open_loads(port: int, tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(BODY)
    for result in (run(port, body, clients=2), run(port, body, rate=40)):
        statuses = [status for status, _ in result.answers]
        assert set(statuses) == {200, 429}
        assert abs(statuses.count(200) - statuses.count(429)) <= 2
        assert all(took > 0 for _, took in result.answers)
        assert result.last_body == "done"
    assert len(result.answers) <= 49, "an open load never exceeds its rate"


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(BODY)
    with pytest.raises(ConnectionRefusedError):
        run(1, body, clients=1)
