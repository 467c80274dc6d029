"""Filters of a search: which items may be among the neighbours.

A filter is a dict; an item must meet every entry. ``label`` is the item's label, every other name a
field of its metadata object. A value is a text, a number, true, false or None; None asks for items
without a label, or without the field (or with null in it). Types count: 1 is not "1" and not true.
"""

import math
from collections.abc import Mapping
from typing import Any

from images.errors import UsageError

_FIELD = "EXISTS (SELECT 1 FROM json_each(items.metadata) AS field WHERE field.key = ? AND "


def where(condition: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """The filter as an SQL condition on ``items`` and its values.

    Raises:
        UsageError: naming the field, for a value of another kind.
    """
    clauses, values = ["1"], []
    for name, value in condition.items():
        if not isinstance(name, str):
            raise UsageError(f"filter: the name {name!r} is not a text")
        clause, given = _label(value) if name == "label" else _field(name, value)
        clauses.append(clause)
        values.extend(given)
    return " AND ".join(clauses), values


def _label(value: object) -> tuple[str, list[Any]]:
    if value is None:
        return "label IS NULL", []
    if not isinstance(value, str):
        raise UsageError(f"filter: label is {value!r}; a text or null is needed")
    return "label = ?", [_text("label", value)]


def _field(name: str, value: object) -> tuple[str, list[Any]]:
    key = _text("a name", name)
    if value is None:
        return f"NOT {_FIELD} field.type <> 'null')", [key]
    if isinstance(value, bool):
        return f"{_FIELD} field.type = ?)", [key, "true" if value else "false"]
    if isinstance(value, int | float):
        return f"{_FIELD} field.type IN ('integer', 'real') AND field.value = ?)", [
            key,
            _number(name, value),
        ]
    if isinstance(value, str):
        return f"{_FIELD} field.type = 'text' AND field.value = ?)", [key, _text(name, value)]
    raise UsageError(
        f"filter: {name} is {value!r}; a text, a number, true, false or null is needed"
    )


def _number(name: str, value: float) -> float:
    """SQLite has 64-bit integers, and reads a larger one in JSON as a float."""
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return value
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise UsageError(f"filter: {name} is {value!r}; a finite number is needed")
    return number


def _text(name: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"filter: {name} {text!r} is not valid text: {error}") from error
    return text
