"""Filters of a search: which items may be among the neighbors.

A filter is a dict; an item must match every entry. `label` is the item's label, every other name a
field of its metadata object:

    {"label": "shirt", "price": {"$gte": 10, "$lt": 20}, "$not": {"colour": "red"}}

A value is a text, a number, true, false or None, and asks for equality; None asks for items without
a label, or without the field (or with null in it). Types count: 1 is not "1" and not true. A field
that holds a list matches what one of its elements matches. Instead of a value there may be
operators, of which all must hold:

    $eq $ne            equal, or not
    $in $nin           equal to one of a list, or to none of them
    $gt $gte $lt $lte  ranges, of numbers or of texts (in the order of code points)
    $prefix            a text that begins so

Beside the names there may be `$and` and `$or` with a list of filters and `$not` with one. A filter
has at most 500 conditions, and its lists of `$in` 10,000 values together; an empty one matches
nothing.

Metadata is looked up in the table `fields` (`ledger.schema`), so a filter costs in proportion to
its matches and not to the collection.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from base.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

NUMBER, TEXT, BOOLEAN, OTHER = range(4)  # fields.kind; OTHER: lists and objects are there
RANGES = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
OPERATORS = ("$eq", "$ne", "$in", "$nin", *RANGES, "$prefix")
NEGATIONS = {"$ne": "$eq", "$nin": "$in"}
DEEPEST = 20  # filters in filters
MAX_CONDITIONS = 500  # SQLite takes 1,000, which a condition may need two of
MAX_OPTIONS = 10_000  # of one $in; SQLite takes 32,766 values


class Clause(NamedTuple):
    """A condition on `items` in SQL.

    Attributes:
        text: the condition, with a `?` for each value.
        values: in the order of the text.
        fields: the same as a condition on `fields`, where that is all there is to it.
    """

    text: str
    values: list[Any]
    fields: str | None = None


def unusable_filter(why: str) -> UsageError:
    """Return the refusal of a filter."""
    return UsageError(f"filter: {why}", param="filter")


def selection(condition: Mapping[str, Any]) -> Clause:
    """Return a statement for the numbers of matching items, in no order and perhaps repeated.

    Where a field must have some value, the numbers come from its index in `fields` alone. To look
    each of them up in `items` as well would take three times as long.

    Raises:
        UsageError: as `where`.
    """
    _check_size(condition)
    clauses = _clauses(condition)
    first = next((one for one in clauses if one.fields), None)
    if first is None:
        text, values, _ = _joined(" AND ", clauses, empty="1")
        return Clause(f"SELECT sequence FROM items WHERE {text}", values)  # noqa: S608
    rest = [one for one in clauses if one is not first]
    text, values, _ = _joined(" AND ", rest, empty="1")
    source = f"(SELECT item AS sequence FROM fields WHERE {first.fields})"  # noqa: S608
    if not all(one.fields for one in rest):
        source += " JOIN items USING (sequence)"
    return Clause(f"SELECT sequence FROM {source} WHERE {text}", [*first.values, *values])  # noqa: S608


def where(condition: Mapping[str, Any], depth: int = 0) -> Clause:
    """Return the filter as a condition on `items`.

    Raises:
        UsageError: naming the field, for a value or operator of another kind; or it is too large.
    """
    if depth == 0:
        _check_size(condition)
    return _joined(" AND ", _clauses(condition, depth), empty="1")


def _check_size(condition: object) -> None:
    """Refuse a filter of too many conditions before they become SQL."""
    count, options, left = 0, 0, [condition]
    while left and count <= MAX_CONDITIONS:
        one = left.pop()
        if not isinstance(one, dict):
            continue  # refused later, with its name
        count += sum(len(value) if isinstance(value, dict) else 1 for value in one.values())
        for name in ("$and", "$or"):
            value = one.get(name)
            if isinstance(value, list | tuple):
                count -= 1  # their entries are the conditions
                left += value[: MAX_CONDITIONS + 1]
                count += max(0, len(value) - MAX_CONDITIONS - 1)
        if "$not" in one:
            count -= 1
            left.append(one["$not"])
        options += sum(
            len(operand)
            for value in one.values()
            if isinstance(value, dict)
            for name, operand in value.items()
            if name in ("$in", "$nin") and isinstance(operand, list | tuple)
        )
    if count > MAX_CONDITIONS:
        raise unusable_filter(f"it has more than {MAX_CONDITIONS} conditions")
    if options > MAX_OPTIONS:
        raise unusable_filter(f"its lists of $in have more than {MAX_OPTIONS} values together")


def _clauses(condition: Mapping[str, Any], depth: int = 0) -> list[Clause]:
    """Return the conditions that must all hold."""
    if not isinstance(condition, dict):
        raise unusable_filter(f"{condition!r} is not an object")
    if depth > DEEPEST:
        raise unusable_filter(f"more than {DEEPEST} filters inside each other")
    clauses = []
    for name, value in condition.items():
        if not isinstance(name, str):
            raise unusable_filter(f"the name {name!r} is not a text")
        if name in ("$and", "$or"):
            clauses.append(_any_or_all(name, value, depth))
        elif name == "$not":
            clauses.append(_negated(where(value, depth + 1)))
        else:
            clauses += [_test(name, operator, operand) for operator, operand in tests(name, value)]
    return clauses


def field_rows(metadata: Mapping[str, Any]) -> set[tuple[str, int, Any]]:
    """Return what `fields` holds of an item's metadata: name, kind, value.

    A list is there as itself and with each of its elements; null is not there.
    """
    rows: set[tuple[str, int, Any]] = set()
    for name, value in metadata.items():
        for one in (value, *value) if isinstance(value, list) else (value,):
            if one is not None:
                rows.add((name, *_stored(one)))
    return rows


def _stored(value: object) -> tuple[int, Any]:
    if isinstance(value, bool):
        return BOOLEAN, int(value)
    if isinstance(value, int | float):
        return NUMBER, _fitting(value)
    if isinstance(value, str):
        return TEXT, value
    return OTHER, 0


def _fitting(number: float) -> float:
    """Return a number as SQLite holds it: beyond 64 bits the nearest float, or infinity."""
    if isinstance(number, int) and not -(2**63) <= number < 2**63:
        try:
            return float(number)
        except OverflowError:
            return math.inf if number > 0 else -math.inf
    return number


def tests(name: str, value: object) -> Iterator[tuple[str, Any]]:
    """Yield the operators of a filter's entry, each with its operand; equality is one of them."""
    if not isinstance(value, dict):
        yield "$eq", value
        return
    for operator, operand in value.items():
        if operator not in OPERATORS:
            raise unusable_filter(
                f"{name} has the operator {operator!r}; known: {', '.join(OPERATORS)}"
            )
        yield operator, operand


def _test(name: str, operator: str, operand: object) -> Clause:
    if operator in NEGATIONS:
        return _negated(_test(name, NEGATIONS[operator], operand))
    if operator == "$in":
        return _one_of(name, operand)
    if operator == "$eq" and operand is None:
        if name == "label":
            return Clause("label IS NULL", [])
        key = _text("a name", name)
        return Clause("sequence NOT IN (SELECT item FROM fields WHERE name = ?)", [key])
    kind, value = checked(name, operand)
    if operator == "$prefix" or (operator in RANGES and kind == BOOLEAN):
        if kind != TEXT:
            raise unusable_filter(f"{name}: {operator} cannot be used with {operand!r}")
        return _among(name, kind, *_beginning(str(value)))
    return _among(name, kind, f"value {RANGES.get(operator, '=')} ?", [value])


def _one_of(name: str, options: object) -> Clause:
    if not isinstance(options, list | tuple):
        raise unusable_filter(f"{name}: $in needs a list of values, not {options!r}")
    if len(options) > MAX_OPTIONS:
        raise unusable_filter(f"{name}: $in has {len(options)} values, at most {MAX_OPTIONS} fit")
    kinds: dict[int, list[Any]] = {}
    for one in options:
        if one is not None:
            kind, value = checked(name, one)
            kinds.setdefault(kind, []).append(value)
    clauses = [
        _among(name, kind, f"value IN ({', '.join('?' * len(values))})", values)
        for kind, values in kinds.items()
    ]
    if None in options:
        clauses.append(_test(name, "$eq", None))
    either = _joined(" OR ", clauses)
    if not clauses:
        return either  # nothing
    fields = [f"({one.fields})" for one in clauses if one.fields]
    return _within(" OR ".join(fields), either.values) if len(fields) == len(clauses) else either


def _among(name: str, kind: int, comparison: str, values: list[Any]) -> Clause:
    """Return the clause for items whose field, or label, passes the comparison."""
    if name == "label":
        if kind != TEXT:
            raise unusable_filter(f"label is {values[0]!r}; a text or null is needed")
        return Clause(comparison.replace("value", "label"), values)
    key = _text("a name", name)
    test = f"name = ? AND kind = {kind} AND {comparison}"
    return _within(test, [key, *values])


def _within(fields: str, values: list[Any]) -> Clause:
    return Clause(f"sequence IN (SELECT item FROM fields WHERE {fields})", values, fields)  # noqa: S608


def _beginning(prefix: str) -> tuple[str, list[Any]]:
    """Return the comparison for texts from the prefix to the first that does not begin so."""
    for location in range(len(prefix) - 1, -1, -1):
        following = ord(prefix[location]) + 1
        if following == 0xD800:  # surrogates are no text
            following = 0xE000
        if following <= 0x10FFFF:
            return "value >= ? AND value < ?", [prefix, prefix[:location] + chr(following)]
    return "value >= ?", [prefix]


def _any_or_all(name: str, value: object, depth: int) -> Clause:
    if not isinstance(value, list | tuple) or not value:
        raise unusable_filter(f"{name} needs a list of filters, not {value!r}")
    clauses = [where(one, depth + 1) for one in value]
    return _joined(" AND " if name == "$and" else " OR ", clauses)


def _negated(clause: Clause) -> Clause:
    # a comparison with no label is neither true nor false
    return Clause(f"({clause.text}) IS NOT TRUE", clause.values)


def _joined(operator: str, clauses: list[Clause], *, empty: str = "0") -> Clause:
    text = operator.join(f"({one.text})" for one in clauses)
    return Clause(text or empty, [value for one in clauses for value in one.values])


def checked(name: str, value: object) -> tuple[int, Any]:
    """Return kind and value as `fields` holds them.

    Raises:
        UsageError: naming the field, for a value that is not a text, finite number, true or false.
    """
    if isinstance(value, bool | int | float | str):
        kind, stored = _stored(value)
        if kind == NUMBER and not math.isfinite(stored):
            raise unusable_filter(f"{name} is {value!r}; a finite number is needed")
        return kind, _text(name, stored) if kind == TEXT else stored
    raise unusable_filter(
        f"{name} is {value!r}; a text, a number, true, false, null or operators are needed"
    )


def _text(name: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise unusable_filter(f"{name} {text!r} is not valid text: {error}") from error
    return text
