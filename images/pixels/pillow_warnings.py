"""Silence Pillow's warnings about odd files while it decodes.

Damaged EXIF, doubtful headers, large images: Pillow says so through `warnings` (an exception
under `-W error`) and now and then through `logging`. What matters of it becomes an ImageRefused.
Neither `warnings.catch_warnings` nor a lock would do here: the first gives other threads' filters
back in a stale state, the second would decode one image at a time.
"""

import logging
import re
import threading
import warnings
from contextlib import suppress
from typing import Any, cast

_MODULE = r"PIL\."
_FILTER = ("ignore", None, Warning, re.compile(_MODULE), 0)


class Hush:
    """A context shared by threads: the first to enter installs it, the last to leave removes it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._handler = logging.NullHandler()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            warnings.filterwarnings("ignore", module=_MODULE)
            if self._inside == 1:
                logging.getLogger("PIL").addHandler(self._handler)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                logging.getLogger("PIL").removeHandler(self._handler)
                with suppress(ValueError):  # somebody has replaced the list meanwhile
                    cast("list[Any]", warnings.filters).remove(_FILTER)


hush_pillow = Hush()
