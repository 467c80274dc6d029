"""The check for known advisories, against a source of them on this machine."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "audit.py"


class Advisories(BaseHTTPRequestHandler):
    """Knows one about a package's version."""

    bad = ""

    def do_POST(self) -> None:
        queries = json.loads(self.rfile.read(int(self.headers["content-length"])))["queries"]
        advisory = {"vulns": [{"id": "PYSEC-0000-1"}]}
        results = [advisory if one["package"]["name"] == self.bad else {} for one in queries]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"results": results}).encode())

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def source() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Advisories) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def audit(url: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, SCRIPT, url], capture_output=True, text=True, check=False
    )
    assert not done.stderr
    return done.returncode, done.stdout.splitlines()


def test_advisories_are_named(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert audit(source)[0] == 0
    monkeypatch.setattr(Advisories, "bad", "starlette")
    status, lines = audit(source)
    assert status == 1
    assert lines[0].startswith("starlette ")
    assert lines[0].endswith("PYSEC-0000-1")
    assert lines[1].endswith(" 1 advisories")


def test_one_line_says_that_nothing_was_checked() -> None:
    status, lines = audit("http://127.0.0.1:9/")
    assert (status, len(lines)) == (0, 1)
    assert "nothing was checked" in lines[0]
