"""Keys of items: which there can be, where a page of them begins, and splitting many of them."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from base.errors import UsageError

T = TypeVar("T")
UNREACHABLE = (".", "..")  # clients and proxies take them out of a path (RFC 3986, 5.2.4)


def is_utf8(key: object) -> bool:
    """Whether a key can be in a collection at all: keys are valid, non-empty UTF-8."""
    try:
        return isinstance(key, str) and bool(key.encode())
    except UnicodeEncodeError:
        return False


def distinct_keys(keys: Iterable[str]) -> list[str]:
    """Return keys in their order, each once.

    Raises:
        UsageError: a text, whose letters would be taken for keys.
    """
    if isinstance(keys, (str, bytes)):
        raise UsageError(f"keys is {keys!r}: give a list of keys, [{keys!r}]", param="keys")
    return list(dict.fromkeys(keys))


def page_start(after: str | None) -> str:
    """Return what all keys of the page after a key are greater than.

    Raises:
        UsageError: no key could be that.
    """
    if after and not is_utf8(after):
        raise UsageError(f"after is {after!r}, which no key can be", param="after")
    return after or ""


def chunks(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield the values in chunks of at most `size`."""
    for start in range(0, len(values), size):
        yield values[start : start + size]
