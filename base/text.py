"""Text of messages: another library's exception in one line, and the name that was meant."""

from collections.abc import Iterable
from difflib import get_close_matches

MAX_CHOICES = 20  # in one message


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
    return next(iter(get_close_matches(name, list(choices), n=1)), None)


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the nearest choice, else the list of choices."""
    names = sorted(choices)
    if near := nearest(name, names):
        return f"; did you mean '{near}'?"
    more = f" and {len(names) - MAX_CHOICES} more" if len(names) > MAX_CHOICES else ""
    return f"; known: {', '.join(names[:MAX_CHOICES])}{more}"
