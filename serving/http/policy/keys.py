"""API keys, and files that hold them: one key a line; blank lines and those with # are skipped.

A file is checked for changes whenever keys are needed, which costs a microsecond: a changed one
counts from the next request on, without a restart. One that has become unusable leaves the keys
as they were, and the log says why.
"""

import logging
from pathlib import Path

from base.errors import UsageError

logger = logging.getLogger(__name__)

MIN_KEY_CHARACTERS = 8
MOST_BYTES = 2**20

Signature = tuple[int, ...]


def split_keys(text: str) -> tuple[str, ...]:
    """Return the keys of a variable, separated by commas."""
    return tuple(key.strip() for key in text.split(",") if key.strip())


def check_key(key: str, where: str = "") -> None:
    """Refuse a key that is easily guessed or that no header can carry.

    Args:
        key: it is never shown.
        where: what to say before the message.

    Raises:
        UsageError: the message says what is wrong.
    """
    if len(key) < MIN_KEY_CHARACTERS or not key.isascii() or not key.isprintable():
        raise UsageError(
            f"{where}an API key of {len(key)} characters: give at least {MIN_KEY_CHARACTERS}, "
            'printable ASCII, such as: python -c "import secrets; '
            'print(secrets.token_urlsafe())"'
        )


class KeyFile:
    """A file of keys.

    Raises:
        UsageError: it cannot be read, holds no key or a bad one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen = _signature(path)  # before it is read: a change in between is seen next time
        self._keys = _read(path)

    def __repr__(self) -> str:
        return f"KeyFile({str(self.path)!r})"

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that count now."""
        seen = _signature(self.path)
        if seen != self._seen:
            self._seen = seen
            try:
                self._keys = _read(self.path)
            except UsageError as error:
                logger.error("%s; the keys of before still count", error)  # noqa: TRY400 - not a fault of ours
        return self._keys


def _signature(path: Path) -> Signature:
    """Return what changes with the content; empty where there is no file."""
    try:
        stat = path.stat()
    except OSError:
        return ()
    return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_size


def _read(path: Path) -> tuple[str, ...]:
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"the key file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"the key file {path} is not text: write one key a line") from error
    keys = []
    for number, line in enumerate(text.splitlines(), 1):
        if not (key := line.strip()) or key.startswith("#"):
            continue
        where = f"the key file {path}, line {number}: "
        check_key(key, where)
        if " " in key:
            raise UsageError(f"{where}a key with a space: give a comment a line of its own")
        keys.append(key)
    if not keys:
        raise UsageError(f"the key file {path} holds no key: write one a line")
    return tuple(keys)
