"""What `lookalike serve` runs: the service in this process, or in several (`workers`).

`bentoml serve` runs the same service from a bento, in a worker process that BentoML watches over.
"""

import os
from dataclasses import replace
from pathlib import Path

from base.errors import LookalikeError, UsageError
from serving.collection.contract.locations import Location
from serving.http.engine.lifecycle import Lifecycle
from serving.http.gate.auth import is_loopback
from serving.http.policy.keys import KeyFile
from serving.http.policy.settings import Settings, from_environment
from serving.http.server.listener import announce, listen
from serving.http.server.uvicorn_server import make_server
from serving.http.server.workers import serve_with_workers


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
            serve_with_workers(settings, listener)
            return
        lifecycle = Lifecycle(lambda: settings)
        lifecycle.open()
        server = make_server(lifecycle, on_started=lambda: announce(listener))
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
    """Refuse an address that others can reach, unless there is a key or it is meant.

    Raises:
        UsageError: with the remedy.
    """
    if is_loopback(host) or settings.has_keys or settings.insecure:
        return
    raise UsageError(
        f"{host} can be reached from other machines: set a key with --api-key-file "
        "or LOOKALIKE_API_KEY, listen on 127.0.0.1, or give --insecure if everyone may use it"
    )
