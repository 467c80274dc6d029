"""The uvicorn server of one process: uvloop and httptools, an orderly end."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from serving.http.engine.lifecycle import Lifecycle
from serving.http.routes.service import make_service
from serving.http.server.listener import BACKLOG

DRAIN_SECONDS = 30  # how long begun requests may take after Ctrl-C or SIGTERM


class Server(uvicorn.Server):
    """Calls back when it listens, and ends in order at Ctrl-C and SIGTERM, without a failure."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen, and call back."""
        await super().startup(sockets)
        if self.started:
            self._on_started()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Forget the signals, which uvicorn would raise again: each stop would be an error."""
        with super().capture_signals():
            yield
            self._captured_signals.clear()


def make_server(lifecycle: Lifecycle, on_started: Callable[[], None]) -> Server:
    """Return a server for a service; `on_started` is called when it listens."""
    config = uvicorn.Config(
        make_service(lifecycle).to_asgi(),
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        proxy_headers=bool(lifecycle.settings.trusted_proxies),
        forwarded_allow_ips=lifecycle.settings.trusted_proxies,
        timeout_keep_alive=lifecycle.settings.keep_alive_seconds,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    return Server(config, on_started)
