"""JSON in and out: strict about what is read, safe about what is written."""

import json
import reprlib
from collections.abc import Mapping
from typing import Any, NoReturn

from starlette.responses import Response

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60
_short.maxlevel = 2


def parse_json(content: bytes | str) -> Any:
    """Parses JSON, without NaN and infinities, which JSON does not have.

    Raises:
        ValueError: not JSON, not UTF-8, nested too deeply, or a number too long.
    """
    try:
        return json.loads(content, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def json_response(
    content: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """An answer in JSON. Text that is no valid Unicode (lone surrogates) is written as `?`."""
    return Response(
        json_bytes(content), status, headers=dict(headers or {}), media_type="application/json"
    )


def json_bytes(content: Any) -> bytes:
    """JSON in UTF-8, as short as it gets; see `json_response`."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", errors="replace")


def show(value: object) -> str:
    """A value as it stands in a message: quoted, and short however large it is."""
    return _short.repr(value)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
