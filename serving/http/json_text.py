"""JSON in and out: strict about what is read, safe about what is written."""

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from starlette.responses import Response

SHOWN_CHARACTERS = 60


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
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Response(
        text.encode("utf-8", errors="replace"),
        status,
        headers=dict(headers or {}),
        media_type="application/json",
    )


def show(value: object) -> str:
    """A value as it stands in a message: quoted, and cut where it is long."""
    text = repr(value[: SHOWN_CHARACTERS + 1] if isinstance(value, str | list) else value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
