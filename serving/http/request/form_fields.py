"""Checked access to a request's fields: each getter names the field, the value and the remedy."""

import difflib
import math
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.http.json_text import parse_json, show
from serving.http.request.errors import HttpError, invalid


class Text(str):
    """A value that came as text, from a form or the query: numbers and JSON stand in it as text."""

    __slots__ = ()


class Fields:
    """The fields of one request.

    Args:
        values: by name, as JSON gave them, or `Text`. None and an empty or `null` text are absent.
        known: the names this route takes.

    Raises:
        HttpError: a name that is not known; the message gives the nearest.
    """

    def __init__(self, values: Mapping[str, Any], known: Iterable[str]) -> None:
        known = tuple(known)
        for name in values:
            if name not in known:
                raise _unknown(name, known)
        self._values = {
            name: value
            for name, value in values.items()
            if value is not None and not (isinstance(value, Text) and value in ("", "null"))
        }

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def text(self, name: str) -> str | None:
        """Return a text that is not empty."""
        value = self._values.get(name)
        if isinstance(value, Text):
            value = _unquoted(value)
        if value is None or (isinstance(value, str) and value and _is_unicode(value)):
            return value
        raise invalid(name, f"{name} is {show(value)}: a text is needed")

    def choice(self, name: str, choices: Iterable[str]) -> str | None:
        """One of some words."""
        value = self.text(name)
        choices = tuple(choices)
        if value is not None and value not in choices:
            raise invalid(name, f"{name} is {show(value)}: choose {' or '.join(choices)}")
        return value

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        """Return a whole number from low to high."""
        value = self._parsed(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            message = f"{name} is {show(value)}: a whole number from {low} to {high} is needed"
            raise invalid(name, message)
        return value

    def number(self, name: str, low: float, high: float) -> float | None:
        """Return a number from low to high."""
        value = self._parsed(name)
        if value is None:
            return None
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not low <= value <= high
        ):
            message = f"{name} is {show(value)}: a number from {low:g} to {high:g} is needed"
            raise invalid(name, message)
        return float(value)

    def flag(self, name: str) -> bool:
        """Return true or false; absent is false."""
        value = self._parsed(name)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise invalid(name, f"{name} is {show(value)}: true or false is needed")
        return value

    def json_object(self, name: str) -> dict[str, Any] | None:
        """Return a JSON object."""
        value = self._parsed(name)
        if value is None or isinstance(value, dict):
            return value
        raise invalid(name, f"{name} is {show(value)}: a JSON object is needed")

    def json_list(self, name: str) -> list[Any] | None:
        """Return a JSON list."""
        value = self._parsed(name)
        if value is None or isinstance(value, list):
            return value
        raise invalid(name, f"{name} is {show(value)}: a JSON list is needed")

    def vector(self, name: str, dim: int) -> NDArray[np.float32] | None:
        """Return a list of dim numbers as float32 [dim]: finite, and not all zero."""
        value = self._parsed(name)
        return None if value is None else checked_vector(value, name, dim)

    def _parsed(self, name: str) -> Any:
        value = self._values.get(name)
        if not isinstance(value, Text):
            return value
        try:
            return parse_json(value)
        except ValueError:
            return str(value)  # the getter says what it should have been


def checked_vector(value: object, name: str, dim: int) -> NDArray[np.float32]:
    """Return a list of numbers as float32 [dim]: finite, and not all zero.

    Raises:
        HttpError: it is none; the message says what is wrong.
    """
    if not isinstance(value, list) or not all(
        isinstance(number, int | float) and not isinstance(number, bool) for number in value
    ):
        raise invalid(name, f"{name} is {show(value)}: a list of {dim} numbers is needed")
    if len(value) != dim:
        message = f"{name} has {len(value)} numbers: embeddings of this encoder have {dim}"
        raise invalid(name, message)
    try:
        with np.errstate(over="ignore"):
            vector = np.asarray(value, np.float64).astype(np.float32)
    except OverflowError:  # an integer of hundreds of digits
        vector = np.full(dim, np.inf, np.float32)
    length = float(np.linalg.norm(vector.astype(np.float64)))
    if not math.isfinite(length) or length == 0:
        what = "zero, which is similar to nothing" if length == 0 else "too large for float32"
        raise invalid(name, f"{name} is {what}: send an embedding of this encoder")
    return vector


def _is_unicode(text: str) -> bool:
    """JSON can spell half of a surrogate pair, which no text holds and no database takes."""
    return not any("\ud800" <= sign <= "\udfff" for sign in text)


def _unquoted(text: Text) -> str:
    """BentoML's client writes form fields as JSON, curl as they are; both are taken."""
    if text.startswith('"'):
        try:
            value = parse_json(text)
        except ValueError:
            return str(text)
        if isinstance(value, str):
            return value
    return str(text)


def _unknown(name: str, known: tuple[str, ...]) -> HttpError:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"this route takes {', '.join(known)}"
    message = f"{show(name)} is not known: {hint}"
    return HttpError(HTTPStatus.UNPROCESSABLE_ENTITY, "unknown-parameter", message, param=name)
