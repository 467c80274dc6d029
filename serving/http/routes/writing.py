"""Changes of the collection, on a disk that may be full, read-only or broken.

A change is good once the ledger has it: nothing that fails afterwards fails its answer. What the
disk does not take is refused, 507 where there is no space and else 503, with one line a minute in
the log and a gauge that stays up until a change succeeds.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import TypeVar

from base.errors import LookalikeError, StorageError
from serving.http.engine.runtime import Runtime
from serving.http.request.errors import HttpError

T = TypeVar("T")
LOG_SECONDS = 60.0  # between two lines about the same fault
logger = logging.getLogger(__name__)


class _LogLimit:
    """When a line about the disk was last written, by the monotonic clock."""

    last = -LOG_SECONDS


async def write(runtime: Runtime, work: Callable[..., T], *args: object) -> T:
    """Run work that changes the collection.

    Raises:
        HttpError: the disk does not take it, or the folder is another one; nothing was changed.
    """
    access = runtime.collection

    def checked() -> T:
        if access.replaced:
            raise _replaced()
        return work(*args)

    try:
        result = await access.write(checked)
    except StorageError as error:
        runtime.metrics.storage_failing.set(1)
        _log(error)
        raise _refusal(error) from error
    runtime.metrics.storage_failing.set(0)
    return result


@contextmanager
def best_effort(what: str) -> Iterator[None]:
    """Do what belongs to a change that is in the ledger already; the log says if it fails."""
    try:
        yield
    except (OSError, LookalikeError) as error:
        logger.warning("%s failed after the change was stored: %s", what, error)


def _log(error: StorageError) -> None:
    now = time.monotonic()
    if now - _LogLimit.last >= LOG_SECONDS:
        _LogLimit.last = now
        logger.error("changes are refused: %s", error)


def _replaced() -> HttpError:
    return HttpError(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "collection-replaced",
        "the collection's folder was replaced or removed: start the service again",
    )


def _refusal(error: StorageError) -> HttpError:
    if error.full:
        return HttpError(
            HTTPStatus.INSUFFICIENT_STORAGE,
            "storage-full",
            "the service's disk is full, nothing was changed: free some space and try again",
        )
    return HttpError(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "storage-unwritable",
        "the service's disk is read-only or fails, nothing was changed: the log has the reason",
        headers={"Retry-After": "60"},
    )
