"""A connection to Milvus with our errors, and the one module that reads its environment.

MILVUS_TOKEN                      an API key, or user:password
MILVUS_USER, MILVUS_PASSWORD      instead of a token
MILVUS_CA_FILE                    certificate (PEM) to trust, for milvus+tls://
MILVUS_TIMEOUT                    seconds a call may take, 30 by default
"""

import logging
import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from base.errors import LookalikeError, UsageError
from serving.collection.contract.errors import CollectionBusy
from serving.collection.contract.locations import MilvusLocation

TIMEOUT = 30
STRONG = "Strong"
# For the server of a file, in this very process. It hangs up on a client that pings every 10
# seconds, as pymilvus does by default (gRPC: "Too many pings").
NO_PINGS = {"grpc.keepalive_time_ms": 2**31 - 1, "grpc.keepalive_permit_without_calls": False}

_files: Counter[Path] = Counter()
_files_lock = threading.Lock()


class Connection:
    """An open connection. Safe to use from several threads.

    Attributes:
        location: of the collection.
    """

    def __init__(self, location: MilvusLocation, environ: Mapping[str, str] = os.environ) -> None:
        self.location = location
        self._timeout = _timeout(environ)
        self._lock = threading.Lock()
        milvus = _import_pymilvus()
        self._errors = (milvus.MilvusException,)
        arguments = {
            "uri": location.uri,
            "db_name": location.database,
            **_secrets(location, environ),
        }
        if location.file is not None:
            arguments["grpc_options"] = NO_PINGS
            _hold(location.file)
        try:
            self._client: Any = milvus.MilvusClient(timeout=self._timeout, **arguments)
        except milvus.MilvusException as error:
            if location.file is None:
                raise LookalikeError(
                    f"cannot connect to {location.text}: {error.message}. Is Milvus running and "
                    "reachable, and is MILVUS_TOKEN (or MILVUS_USER and MILVUS_PASSWORD) right?"
                ) from error
            _release(location.file)
            raise CollectionBusy(
                f"cannot open {location.file}: only one process at a time may open a file of "
                "milvus-lite, and it must be a database of milvus-lite 3"
            ) from error

    def close(self) -> None:
        """Close it; closing twice is fine. The last one of a milvus-lite file releases the file."""
        with self._lock:
            client, self._client = self._client, None
        if client is None:
            return
        client.close()
        if self.location.file is not None:
            _release(self.location.file)

    def call(self, method: str, *arguments: Any, **named: Any) -> Any:
        """Call a method of `MilvusClient` on the collection.

        Raises:
            LookalikeError: naming the location and what Milvus says.
        """
        client = self._client
        if client is None:
            raise LookalikeError(f"the collection {self.location.text} is closed")
        with self._translated(method.replace("_", " ")):
            return getattr(client, method)(
                *arguments, collection_name=self.location.name, timeout=self._timeout, **named
            )

    def read(self, method: str, **named: Any) -> Any:
        """Call a method that reads everything that was written before."""
        return self.call(method, consistency_level=STRONG, **named)

    def pages(
        self, expression: str, fields: list[str], size: int
    ) -> Iterator[list[dict[str, Any]]]:
        """Yield the entities that match an expression in the order of their ids, page by page."""
        iterator = self.read(
            "query_iterator",
            filter=expression,
            batch_size=size,
            limit=-1,
            output_fields=fields,
        )
        try:
            while True:
                with self._translated("query"):
                    page = iterator.next()
                if not page:
                    return
                yield sorted(page, key=_id)
        finally:
            iterator.close()

    def version(self) -> str:
        """Return the server's version."""
        with self._translated("ask for its version"):
            return str(self._client.get_server_version())

    @contextmanager
    def _translated(self, action: str) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            raise LookalikeError(
                f"{self.location.text}: Milvus could not {action}: {error.message}"
            ) from error


def _id(entity: dict[str, Any]) -> str:
    return str(entity["id"])


def _import_pymilvus() -> Any:
    try:
        import pymilvus
    except ImportError as error:
        raise UsageError(
            "collections in Milvus need its client: pip install 'lookalike[milvus]'"
        ) from error
    # It writes each failure with a traceback to stderr before raising it; our errors suffice.
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    return pymilvus


def _timeout(environ: Mapping[str, str]) -> int:
    text = environ.get("MILVUS_TIMEOUT") or str(TIMEOUT)
    if not text.isdecimal() or not 0 < int(text) < 86_400:
        raise UsageError(f"MILVUS_TIMEOUT is {text!r}; a whole number of seconds is needed")
    return int(text)  # pymilvus ignores limits that are not whole numbers


def _secrets(location: MilvusLocation, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return pymilvus' arguments for authentication and TLS; none for a local file."""
    if location.file is not None:
        return {}
    secrets: dict[str, Any] = {
        argument: environ[variable]
        for argument, variable in (
            ("token", "MILVUS_TOKEN"),
            ("user", "MILVUS_USER"),
            ("password", "MILVUS_PASSWORD"),
            ("server_pem_path", "MILVUS_CA_FILE"),
        )
        if environ.get(variable)
    }
    if ("user" in secrets) != ("password" in secrets):
        raise UsageError("set both of MILVUS_USER and MILVUS_PASSWORD, or MILVUS_TOKEN alone")
    certificate = secrets.get("server_pem_path")
    if certificate is not None and not Path(certificate).is_file():
        raise UsageError(f"MILVUS_CA_FILE is {certificate}; there is no such file")
    if location.uri.startswith("https://"):
        secrets["secure"] = True
    elif certificate is not None:
        raise UsageError("MILVUS_CA_FILE is set, but the URL is not milvus+tls://")
    return secrets


def _hold(path: Path) -> None:
    with _files_lock:
        _files[path.absolute()] += 1


def _release(path: Path) -> None:
    """Stop a file's server with its last connection; pymilvus would only at the process's end."""
    with _files_lock:
        _files[path.absolute()] -= 1
        if _files[path.absolute()]:
            return
        from milvus_lite.server_manager import server_manager_instance

        server_manager_instance.release_server(str(path))
