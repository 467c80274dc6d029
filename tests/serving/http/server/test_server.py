"""Starting and stopping: addresses, keys, ports, signals, and messages about what is wrong."""

import asyncio
import io
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import bentoml
import httpx
import pytest
from PIL import Image
from starlette.types import ASGIApp, Receive, Scope, Send

from base.errors import ArtifactError, UsageError
from serving.collection import create_collection
from serving.http.engine.lifecycle import Lifecycle
from serving.http.gate.gate import Gate
from serving.http.policy.settings import Settings
from serving.http.routes.service import TIMER, TRACER, make_service
from serving.http.server.listener import listen, url_of
from serving.http.server.server import check_exposure, serve, settings_for
from serving.http.server.uvicorn_server import make_server
from tests.serving.http.conftest import started

PROGRAM = """
import sys
from serving.http.server.server import serve
serve(sys.argv[1], port=0, api_key=sys.argv[2] or None)
"""


@contextmanager
def running(encoder: Path, key: str = "") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`serve` in a process of its own; gives the process and the one line it printed."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, str(encoder), key],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines: queue.Queue[str] = queue.Queue()
    assert process.stdout is not None
    read = process.stdout.readline
    threading.Thread(target=lambda: lines.put(read()), daemon=True).start()
    try:
        yield process, lines.get(timeout=60)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_serve_says_one_line_and_ends_well(
    tiny_encoder: Path, how: signal.Signals, image_bytes: bytes
) -> None:
    with running(tiny_encoder, "a-key-of-mine") as (process, line):
        assert line.startswith("Lookalike listens on http://127.0.0.1:")
        url = line.split()[3]
        headers = {"Authorization": "Bearer a-key-of-mine"}
        files = {"image": image_bytes}
        answer = httpx.post(f"{url}/embed", files=files, headers=headers, timeout=30)
        assert answer.status_code == 200
        assert httpx.post(f"{url}/embed", files=files).status_code == 401
        process.send_signal(how)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out, err) == (0, "", "")


@pytest.mark.parametrize("trusted", ["", "127.0.0.1", "10.0.0.0/8"])
def test_whose_word_for_an_address_counts_and_how_long_a_connection_waits(
    tiny_encoder: Path, trusted: str
) -> None:
    settings = Settings(encoder=tiny_encoder, trusted_proxies=trusted, write_key="a-key-of-mine")
    lifecycle = Lifecycle(lambda: settings)
    config = make_server(lifecycle, on_started=lambda: None).config
    assert config.timeout_keep_alive == 75
    seen: list[str] = []

    async def note(scope: Scope, _receive: Receive, _send: Send) -> None:
        seen.append(scope["client"][0])

    config.app = note
    config.load()
    headers = [(b"x-forwarded-for", b"203.0.113.9")]
    scope = {"type": "http", "client": ("127.0.0.1", 7), "headers": headers}
    asyncio.run(config.loaded_app(scope, None, None))
    assert seen == ["203.0.113.9" if trusted == "127.0.0.1" else "127.0.0.1"]


def test_what_was_accepted_is_answered_before_the_end(tiny_encoder: Path) -> None:
    """SIGTERM while 64 images are being decoded: all four requests get their 16 embeddings."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize((2600, 2600)).convert("RGB").save(file, "JPEG")
    files = [("images", file.getvalue())] * 16
    with (
        running(tiny_encoder) as (process, line),
        ThreadPoolExecutor(4) as clients,
        httpx.Client(base_url=line.split()[3], timeout=60) as probe,
    ):
        while probe.get("/readyz").status_code != 200:
            pass
        sent = [clients.submit(probe.post, "/embed", files=files) for _ in range(4)]
        while "lookalike_images_admitted 64" not in probe.get("/metrics").text:
            assert not all(one.done() for one in sent), "they were answered too soon to see"
        process.send_signal(signal.SIGTERM)
        answers = [one.result() for one in sent]
        assert [answer.status_code for answer in answers] == [200] * 4
        assert [len(answer.json()["embeddings"]) for answer in answers] == [16] * 4
        assert process.wait(30) == 0


def test_a_port_in_use(tiny_encoder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} on 127.0.0.1 is in use: .* --port"):
            serve(tiny_encoder, port=port)


@pytest.mark.parametrize(
    ("host", "port", "message"),
    [
        ("127.0.0.1", 70000, "a number from 0"),
        ("192.0.2.1", 0, "is not an address of this machine"),
        ("no.such.host.invalid", 0, "cannot listen on no.such.host.invalid"),
    ],
)
def test_addresses_that_cannot_be_had(host: str, port: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        listen(host, port)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_a_public_address_needs_a_key(host: str, tiny_encoder: Path) -> None:
    with pytest.raises(UsageError, match="--api-key-file or LOOKALIKE_API_KEY"):
        serve(tiny_encoder, host=host, port=0)
    check_exposure(host, Settings(read_key="some-read-key"))
    check_exposure(host, Settings(write_key="some-write-key"))
    check_exposure(host, Settings(insecure=True))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_loopback_needs_none(host: str) -> None:
    check_exposure(host, Settings())


def test_arguments_lie_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOKALIKE_ENCODER", "other.onnx")
    monkeypatch.setenv("LOOKALIKE_API_KEY", "from-environment")
    monkeypatch.setenv("LOOKALIKE_MAX_IMAGES", "5")
    settings = settings_for("mine.onnx", None, api_key="from-arguments", insecure=False)
    assert (settings.encoder, settings.write_keys) == (Path("mine.onnx"), ("from-arguments",))
    assert settings.max_images == 5
    kept = settings_for("mine.onnx", None, api_key=None, insecure=False)
    assert kept.write_keys == ("from-environment",)


def test_a_wrong_encoder(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"none\.onnx cannot be read"):
        serve(tmp_path / "none.onnx", port=0)


def test_a_wrong_collection(tiny_encoder: Path, other_encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no collection at"):
        serve(tiny_encoder, tmp_path / "none", port=0)
    create_collection(tmp_path / "foreign", "0" * 64, 24).close()
    with pytest.raises(ArtifactError, match="was made with the encoder"):
        serve(tiny_encoder, tmp_path / "foreign", port=0)


def test_the_url_can_be_typed() -> None:
    with listen("127.0.0.1", 0) as one:
        assert url_of(one) == f"http://127.0.0.1:{one.getsockname()[1]}"
    if socket.has_ipv6 and Path("/proc/net/if_inet6").exists():
        with listen("::1", 0) as six:
            assert url_of(six).startswith("http://[::1]:")


def test_bentoml_puts_neither_timer_nor_spans_around_a_request() -> None:
    service = make_service(Lifecycle(Settings))
    names = {one.cls.__name__ for one in service.to_asgi().user_middleware}
    untouched = {one.cls.__name__ for one in bentoml.Service.to_asgi(service).user_middleware}
    assert untouched - names == {TIMER, TRACER}
    assert "Gate" in names


def test_bentomls_own_way_to_the_routes_answers_like_the_gate(
    tiny_encoder: Path, image_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = Gate.__init__
    with started(Settings(encoder=tiny_encoder)) as quick:
        quick_answer = quick.client.post("/embed", files={"images": image_bytes})

    def without_posts(gate: Gate, app: ASGIApp, lifecycle: Lifecycle, **_: object) -> None:
        make(gate, app, lifecycle)

    monkeypatch.setattr(Gate, "__init__", without_posts)
    with started(Settings(encoder=tiny_encoder)) as running:
        answer = running.client.post("/embed", files={"images": image_bytes})
        assert answer.json() == quick_answer.json()
        refused = running.client.post("/embed", files={"images": b"no picture"})
        assert running.error(refused) == (422, "not-an-image", "images[0]")
        refused = running.client.post("/search", files={"image": image_bytes})
        assert running.error(refused) == (404, "no-collection", None)
        refused = running.client.post("/v1/embeddings", json={})
        assert running.error(refused) == (422, "missing-image", "input")
