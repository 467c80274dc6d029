"""JSON in and out: strict about what is read, safe about what is written, quick about vectors."""

import json
import reprlib
import secrets
from collections import Counter
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.responses import Response

# Stands for a vector until its numbers are put in; nobody can send a text that is taken for it.
_MARK = secrets.token_hex(16)
_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60
_short.maxlevel = 2


def parse_json(content: bytes | str) -> Any:
    """Parse JSON, without NaN and infinities, which JSON does not have.

    Raises:
        ValueError: not JSON, not UTF-8, nested too deeply, or a number too long.
    """
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_object)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def json_response(
    content: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return an answer in JSON; what is not valid Unicode (lone surrogates) is written as `?`."""
    return Response(
        json_bytes(content), status, headers=dict(headers or {}), media_type="application/json"
    )


def json_bytes(content: Any) -> bytes:
    """JSON in UTF-8, as short as it gets; see `json_response`.

    An array [N], of float32 or less, may stand anywhere in the content, and reads back as the same
    numbers. As a list of Python's floats it would take twenty times as long and nearly twice the
    space.
    """
    vectors: list[str] = []

    def stand_in(value: object) -> str:
        if not isinstance(value, np.ndarray):
            raise TypeError(f"{type(value).__name__} is not JSON")
        vectors.append(_numbers(value))
        return _MARK

    text = json.dumps(
        content, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=stand_in
    )
    if vectors:
        first, *others = text.split(f'"{_MARK}"')
        pairs = zip(vectors, others, strict=True)
        text = first + "".join([vector + other for vector, other in pairs])
    return text.encode("utf-8", errors="replace")


def _numbers(vector: NDArray[Any]) -> str:
    """As few digits as tell each float from its neighbors."""
    if not np.isfinite(vector).all():  # orjson would write null
        raise ValueError("NaN and infinities are not JSON")
    plain = np.ascontiguousarray(vector)
    return orjson.dumps(plain, option=orjson.OPT_SERIALIZE_NUMPY).decode()


def show(value: object) -> str:
    """Return a value as it stands in a message: quoted, and short however large it is."""
    # What is derived from `str` would be written out whole, and then cut.
    return _short.repr(str(value) if isinstance(value, str) else value)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object whose names differ: of two the last would win, in silence."""
    values = dict(pairs)
    if len(values) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = next(name for name, count in counts.items() if count > 1)
        raise ValueError(f"{show(twice)} is given twice: give it once")
    return values


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
