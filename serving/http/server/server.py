"""Starts the service in this process: uvloop and httptools, an orderly end.

This is what `lookalike serve` runs; of several workers each does (`workers`). `bentoml serve` runs
the same service from a bento, in a worker process that BentoML watches over.
"""

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import uvicorn

from base.errors import LookalikeError, UsageError
from serving.collection.contract.locations import Location
from serving.http.engine.engine import Engine
from serving.http.gate.auth import is_loopback
from serving.http.policy.keys import KeyFile
from serving.http.policy.settings import Settings, from_environment
from serving.http.routes.service import make_service

BACKLOG = 2048
DRAIN_SECONDS = 30  # how long begun requests may take after Ctrl-C or SIGTERM


def serve(
    encoder: str | os.PathLike[str],
    collection: Location | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 3000,
    api_key: str | None = None,
    api_key_file: Path | None = None,
    insecure: bool = False,
    workers: int | None = None,
    threads: int | None = None,
) -> None:
    """Serve until Ctrl-C or SIGTERM; requests that have begun are finished first.

    Args:
        encoder: an encoder file.
        collection: a collection's folder or milvus:// URL; None serves embeddings only.
        host: the address to listen on.
        port: the port; 0 takes a free one.
        api_key: asked of every client; it reads and writes. None takes the environment's keys.
        api_key_file: a file of such keys; the environment's count as well.
        insecure: listen on a public address without a key.
        workers: processes that share the work; None takes the environment's, else 1.
        threads: of the encoder in each of them; None takes the environment's, else the CPUs this
            process may use, or a worker's share of them.

    Raises:
        UsageError: a public address without a key, a port in use, a wrong path, or a variable of
            the environment that is no setting.
        ArtifactError: the encoder or the collection is damaged, or they do not belong together.
    """
    settings = settings_for(
        encoder,
        collection,
        api_key=api_key,
        api_key_file=api_key_file,
        insecure=insecure,
        workers=workers,
        threads=threads,
    )
    check_exposure(host, settings)
    listener = listen(host, port)
    try:
        if settings.workers > 1:
            from serving.http.server.workers import serve_with_workers

            serve_with_workers(settings, listener)
            return
        engine = Engine(lambda: settings)
        engine.open()
        server = make_server(engine, on_started=lambda: say_listening(listener))
        server.run(sockets=[listener])
    finally:
        listener.close()
    if not server.started:
        raise LookalikeError("the service did not start; the lines above say why")


def settings_for(
    encoder: str | os.PathLike[str],
    collection: Location | None,
    *,
    api_key: str | None,
    insecure: bool,
    api_key_file: Path | None = None,
    workers: int | None = None,
    threads: int | None = None,
) -> Settings:
    """Return the environment's settings with the arguments laid over them."""
    settings = from_environment(os.environ)
    return replace(
        settings,
        encoder=Path(encoder),
        collection=collection if collection is not None else settings.collection,
        write_key=api_key or settings.write_key,
        api_key_file=KeyFile(api_key_file) if api_key_file else settings.api_key_file,
        insecure=insecure or settings.insecure,
        workers=workers or settings.workers,
        threads=threads or settings.threads,
    )


def check_exposure(host: str, settings: Settings) -> None:
    """Refuses an address that others can reach, unless there is a key or it is meant.

    Raises:
        UsageError: with the remedy.
    """
    if is_loopback(host) or settings.has_keys or settings.insecure:
        return
    raise UsageError(
        f"{host} can be reached from other machines: set a key with --api-key-file "
        "or LOOKALIKE_API_KEY, listen on 127.0.0.1, or give --insecure if everyone may use it"
    )


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket, so that a port in use is known before the encoder is loaded.

    Raises:
        UsageError: the address or the port cannot be had.
    """
    if not 0 <= port <= 65535:
        raise UsageError(f"port {port}: give a number from 0 (any free one) to 65535")
    try:
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return socket.create_server(address[0][4][:2], family=address[0][0], backlog=BACKLOG)
    except OSError as error:
        reasons = {
            errno.EADDRINUSE: f"port {port} on {host} is in use: choose another with --port",
            errno.EACCES: f"port {port} needs root's rights: choose one above 1023 with --port",
            errno.EADDRNOTAVAIL: f"{host} is not an address of this machine: choose another --host",
        }
        message = reasons.get(error.errno or 0, f"cannot listen on {host}: {error.strerror}")
        raise UsageError(message) from error


def make_server(engine: Engine, on_started: Callable[[], None]) -> "Server":
    """Return a server for an engine; `on_started` is called when it listens."""
    config = uvicorn.Config(
        make_service(engine).to_asgi(),
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    return Server(config, on_started)


def say_listening(listener: socket.socket, how: str = "") -> None:
    """Says on standard output where the service is."""
    print(f"Lookalike listens on {url_of(listener)}{how} (Ctrl-C stops it)", flush=True)


def url_of(listener: socket.socket) -> str:
    """Return the address of a listening socket, as one types it into a browser."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not listened on
        host = "localhost"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """Tells when it listens, and takes Ctrl-C and SIGTERM as an orderly end, not as a failure."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen and tells so."""
        await super().startup(sockets)
        if self.started:
            self._on_started()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Uvicorn raises the signals again at its end, which would make each stop an error."""
        with super().capture_signals():
            yield
            self._captured_signals.clear()
