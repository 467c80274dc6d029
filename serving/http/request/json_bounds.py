"""Bounds on JSON, checked in its bytes before it becomes objects.

A body of 12 MB may hold six million values, each of which becomes an object of a hundred bytes or
more. Counting them takes a hundredth of the time of parsing them, and no memory: texts are passed
over and commas counted at the speed of memory, and the rest ends where a bound is reached.

What is not JSON is not noticed here: the parser refuses it, at the latest where this has stopped.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from serving.http.json_text import parse_json, show
from serving.http.request.errors import HttpError, invalid
from serving.http.request.parsing import LARGE

VALUES_PER_IMAGE = 8192
PIECE = 2**20  # bytes searched at once: other threads run between two of them
DEEPEST = 200  # containers in each other
ESCAPES = 16  # bytes for each escape: some clients write `\\/` in base64, one sign in 32
MAX_ESCAPES = 2**16  # and so many more
MAX_TEXT = 2**16  # bytes of what is not an image

_STRUCTURE = re.compile(rb'["\[\]{}]')
_LONGEST_NAME = 64


@dataclass(frozen=True, slots=True)
class JsonBounds:
    """What a JSON body may hold.

    Attributes:
        values: of all lists and objects together.
        lists: for lists that are members of the outermost object, by name: how many elements, and
            the refusal of a number of them that is larger.
        images: members of the outermost object that may hold images, and so long texts.
    """

    values: int
    lists: Mapping[str, tuple[int, Callable[[int], HttpError]]] = field(default_factory=dict)
    images: frozenset[str] = frozenset()

    def check(self, content: bytes) -> None:
        """Refuse what holds more; `content` is UTF-8.

        Raises:
            HttpError: a list is too long, or there are too many values.
            ValueError: it is nested too deeply.
        """
        if content.count(b"\\") > len(content) // ESCAPES + MAX_ESCAPES:
            raise self.too_many()
        _Scan(content, self).run()

    def too_long(self, name: str, count: int) -> HttpError | None:
        """Return the refusal of a list of the outermost object; None where it may be as long."""
        most, refusal = self.lists.get(name, (count, None))
        return refusal(count) if refusal is not None and count > most else None

    def too_many(self) -> HttpError:
        """Return the refusal of more values than may be sent."""
        return HttpError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            "too-many-values",
            f"the JSON has more than {self.values} values: send fewer in one request",
        )


def parse_bounded(content: bytes, bounds: JsonBounds) -> Any:
    """Parse JSON in UTF-8, after its bounds were checked where there is much of it.

    Raises:
        HttpError: it holds more.
        ValueError: as `parse_json`.
    """
    if len(content) > LARGE:
        bounds.check(content)
    return parse_json(content)


class _Scan:
    """One way through a text, from bracket to bracket."""

    def __init__(self, content: bytes, bounds: JsonBounds) -> None:
        self._content = content
        self._bounds = bounds
        self._values = 0
        self._texts = 0  # and escaped quotes in them
        self._depth = 0
        self._name = ""  # of the member of the outermost object
        self._elements: int | None = None  # of a list that is that member

    def run(self) -> None:
        at, length = 0, len(self._content)
        while at < length:
            end = min(at + PIECE, length)
            match = _STRUCTURE.search(self._content, at, end)
            self._count(self._content.count(b",", at, match.start() if match else end))
            if match is None:
                at = end
            elif match[0] == b'"':
                at = self._text(match.end())
            else:
                at = match.end()
                self._bracket(match[0])

    def _bracket(self, sign: bytes) -> None:
        if sign in b"]}":
            self._depth -= 1
            if self._depth < 0:
                raise ValueError("it closes more brackets than it opens")
            if self._depth < 2:
                self._elements = None
            return
        self._depth += 1
        self._values += 1
        if self._depth == 2 and sign == b"[":
            self._elements = 1
        if self._depth > DEEPEST:
            raise ValueError("it is nested too deeply")

    def _count(self, values: int) -> None:
        self._values += values
        if self._depth == 2 and self._elements is not None:
            self._elements += values
            if refusal := self._bounds.too_long(self._name, self._elements):
                raise refusal
        if self._values > self._bounds.values:
            raise self._bounds.too_many()

    def _text(self, start: int) -> int:
        """Return where a text ends that begins at `start`; note it where it may be a name."""
        at, escaped = start, True
        while escaped:
            end = self._content.find(b'"', at)
            self._check_text(start, len(self._content) if end < 0 else end)
            if end < 0:
                return len(self._content)
            escaped = self._content[end - 1] == ord("\\") and self._is_escaped(at, end)
            at = end + 1
            self._texts += 1
            if self._texts > 2 * self._bounds.values:  # each value has a name at most
                raise self._bounds.too_many()
        if self._depth == 1:
            self._name = self._content[start : min(end, start + _LONGEST_NAME)].decode("latin-1")
        return at

    def _check_text(self, start: int, end: int) -> None:
        if end - start <= MAX_TEXT or self._name in self._bounds.images:
            return
        before = self._content[max(0, start - _LONGEST_NAME) : start - 1].rstrip()
        if self._depth > 1 or before.endswith(b":"):  # else it is a name itself
            message = f"{show(self._name)} has a text of more than {MAX_TEXT} bytes"
            raise invalid(self._name, message)

    def _is_escaped(self, start: int, end: int) -> bool:
        before = self._content[start:end]
        return (len(before) - len(before.rstrip(b"\\"))) % 2 == 1
