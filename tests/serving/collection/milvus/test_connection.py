"""Connections to Milvus: servers, files, tokens and certificates."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from base.errors import LookalikeError, UsageError
from serving.collection import CollectionBusy, Record, create_collection, open_collection

DIGEST, DIM = "ab" * 32, 8
SECRET = "a-secret-token"

pytest.importorskip("pymilvus", reason="needs the extra milvus")
pytest.importorskip("milvus_lite", reason="needs the extra milvus")
import grpc  # noqa: E402 - comes with pymilvus


def test_a_server_that_is_away_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILVUS_TIMEOUT", "1")
    monkeypatch.setenv("MILVUS_TOKEN", SECRET)
    with pytest.raises(LookalikeError, match=r"milvus://127\.0\.0\.1:1/shop.*MILVUS_TOKEN") as away:
        open_collection("milvus://127.0.0.1:1/shop")
    assert SECRET not in str(away.value)


@pytest.mark.parametrize(
    ("environment", "location", "message"),
    [
        ({"MILVUS_TIMEOUT": "soon"}, "milvus://h/x", "MILVUS_TIMEOUT is 'soon'"),
        ({"MILVUS_USER": "me"}, "milvus://h/x", "MILVUS_PASSWORD"),
        ({"MILVUS_CA_FILE": "/none.pem"}, "milvus+tls://h/x", "no such file"),
        ({"MILVUS_CA_FILE": __file__}, "milvus://h/x", "milvus\\+tls"),
    ],
)
def test_unusable_environments_are_refused(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], location: str, message: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=message):
        open_collection(location)


def test_without_pymilvus_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(UsageError, match=r"lookalike\[milvus\]"):
        open_collection("milvus://h/x")


HOLD = """
import sys
from serving.collection import create_collection
with create_collection(sys.argv[1], "0" * 64, 8):
    print("open", flush=True)
    sys.stdin.read()
"""


def test_a_file_is_for_one_process_and_free_when_closed(tmp_path: Path) -> None:
    location = f"milvus+file:{tmp_path / 'x.db'}#shop"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, location], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(CollectionBusy, match="one process at a time"):
            open_collection(location)
        other.stdin.close()
        assert other.wait(30) == 0
    with open_collection(location) as first, open_collection(location) as second:
        first.add([Record("a", [1.0] * DIM, "")])
        first.close()
        assert second.keys() == ["a"]


class TokenAsked(grpc.ServerInterceptor):  # type: ignore[misc]
    """Answers only calls that carry the token, as a Milvus with authorization does."""

    def __init__(self, token: str) -> None:
        import base64

        self.expected = base64.b64encode(token.encode()).decode()

    def intercept_service(self, continuation: Callable[[Any], Any], call: Any) -> Any:
        if dict(call.invocation_metadata).get("authorization") == self.expected:
            return continuation(call)

        def refuse(_: Any, context: Any) -> None:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "auth check failure")

        return grpc.unary_unary_rpc_method_handler(refuse)


@contextmanager
def secure_server(folder: Path, token: str) -> Iterator[int]:
    """A server over TLS that asks for a token; its certificate is in the folder."""
    from milvus_lite.adapter.grpc.servicer import MilvusServicer
    from milvus_lite.db import MilvusLite
    from pymilvus.grpc_gen.milvus_pb2_grpc import add_MilvusServiceServicer_to_server

    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    files = ["-keyout", "key.pem", "-out", "cert.pem"]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    subprocess.run(
        [*command, "-nodes", "-days", "2", *names, *files],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    key, certificate = (folder / name for name in ("key.pem", "cert.pem"))
    database = MilvusLite(str(folder / "server.db"))
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool, interceptors=[TokenAsked(token)])
        add_MilvusServiceServicer_to_server(MilvusServicer(database), server)
        pair = (key.read_bytes(), certificate.read_bytes())
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
        server.start()
        try:
            yield port
        finally:
            server.stop(0).wait()
            database.close()


def test_tokens_and_certificates_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with secure_server(tmp_path, SECRET) as port:
        location = f"milvus+tls://localhost:{port}/shop?ef=300"
        monkeypatch.setenv("MILVUS_CA_FILE", str(tmp_path / "cert.pem"))
        monkeypatch.setenv("MILVUS_TIMEOUT", "2")
        with pytest.raises(LookalikeError, match="MILVUS_TOKEN"):
            create_collection(location, DIGEST, DIM)
        monkeypatch.setenv("MILVUS_TOKEN", SECRET)
        with create_collection(location, DIGEST, DIM) as collection:
            collection.add([Record("a", [1.0] * DIM, "")])
            assert collection.search([[1.0] * DIM], 3)[0][0].key == "a"
            assert collection.stats()["index"]["search"] == {"ef": 300}
            assert SECRET not in json.dumps(collection.stats())
