"""Text: valid Unicode of any name, an exception in one line, the name that was meant."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

MAX_CHOICES = 20  # in one message
MAX_MISSPELLED = 100  # characters of a name that another one is looked for

_SURROGATE = re.compile("[\ud800-\udfff]")


def printable(name: str) -> str:
    r"""Return a name as valid Unicode, which every file, database and protocol takes.

    A byte that is not UTF-8, as `os.fsdecode` marks it, is written as `\xff`, and half of a
    surrogate pair, as careless JSON holds it, as `\ud83d`.
    """
    return name if name.isascii() else _SURROGATE.sub(_escaped, name)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def one_line(error: BaseException, limit: int = 200) -> str:
    """Return the message of an exception in one line; its class's name if it has none.

    Args:
        error: as another library raised it, often of many lines.
        limit: characters at most.
    """
    return " ".join(str(error).split())[:limit] or type(error).__name__


def first_line(error: BaseException, limit: int = 200) -> str:
    """Return the first line of a message whose others are details; its class's name if it is empty.

    Args:
        error: as another library raised it: ONNX and torch append a context of many lines.
        limit: characters at most.
    """
    return str(error).strip().partition("\n")[0].rstrip()[:limit] or type(error).__name__


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """Return the choice that is spelled most like `name`, or None if none is like it."""
    if len(name) > MAX_MISSPELLED:  # it would take seconds
        return None
    return next(iter(get_close_matches(name, list(choices), n=1)), None)


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the nearest choice, else the list of choices."""
    names = sorted(choices)
    if near := nearest(name, names):
        return f"; did you mean '{near}'?"
    more = f" and {len(names) - MAX_CHOICES} more" if len(names) > MAX_CHOICES else ""
    return f"; known: {', '.join(names[:MAX_CHOICES])}{more}"
