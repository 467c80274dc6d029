"""The socket that a service listens on."""

import errno
import socket

from base.errors import UsageError

BACKLOG = 2048


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket, so that a port in use is seen before the encoder is loaded.

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


def announce(listener: socket.socket, how: str = "") -> None:
    """Print on standard output where the service is."""
    print(f"Lookalike listens on {url_of(listener)}{how} (Ctrl-C stops it)", flush=True)


def url_of(listener: socket.socket) -> str:
    """Return the address of a listening socket, as one types it into a browser."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not listened on
        host = "localhost"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
