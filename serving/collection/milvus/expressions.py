r"""Filters as expressions of Milvus, so that every Milvus gives the answer of `filters`.

Milvus compares JSON differently from version to version where a field is absent, null or a list,
and has no rule for texts inside of quotes that all versions share. So an expression never holds a
name or text of a user, but hashes and hexadecimal digits, and rests on three things only:
`array_contains` (`_any`), comparisons of a JSON value that is there, and/or. Two fields serve:

terms    hashes, each of one fact about the item: it has the field, has a number (a text) in it, has
         this value (or an element with it).
bounds   for ranges and prefixes: under a hash of the field's name and kind, followed by `a` the
         least and by `z` the greatest number (as float) or text (as the hexadecimal digits of
         its UTF-8: in the same order, and a beginning stays a beginning) of the field.

`not` is pushed inwards to single facts, where it needs no three-valued logic of Milvus.

What bounds cannot tell is marked in `terms` as unsure: a field with three texts or more (is one
of the middle ones meant?), a text beyond LONGEST_TEXT bytes, a number that float64 does not hold.
Such items are fetched and judged here, by `Condition.holds`.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from serving.collection.contract.filters import (
    NUMBER,
    RANGES,
    TEXT,
    checked,
    field_rows,
    tests,
    where,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

TERM_LENGTH = 24  # 96 bits: not two alike among a million million
MOST_TERMS = 4096  # Milvus' largest array
LONGEST_TEXT = 128
EVERYTHING, NOTHING = 'id != ""', 'id == ""'

Fact = tuple[str | None, int, Any]
"""The field's name (None for the label), the kind of a value in it, and the value."""


@dataclass(frozen=True)
class Condition:
    """A filter, translated for Milvus.

    Attributes:
        expression: for Milvus. True for every item the filter holds for, and for unsure ones.
        unsure: terms of items that only `holds` can judge; none if the expression is exact.
        holds: whether the filter holds for the facts of an item.
    """

    expression: str
    holds: Callable[[set[Fact]], bool]
    unsure: frozenset[str] = field(default=frozenset())

    @property
    def any_unsure(self) -> str:
        """The expression for items that have one of the unsure terms."""
        return _has_any(sorted(self.unsure))


def condition(query_filter: Mapping[str, Any]) -> Condition:
    """Return a filter as a condition.

    Raises:
        UsageError: as `filters.where`.
    """
    where(query_filter)  # checks it, all the way down
    return _all_of(query_filter, positive=True)


def facts_of(label: str | None, metadata: Mapping[str, Any]) -> set[Fact]:
    """Return everything of an item that a filter can test."""
    facts: set[Fact] = set(field_rows(metadata))
    if label is not None:
        facts.add((None, TEXT, label))
    return facts


def terms_of(label: str | None, metadata: Mapping[str, Any]) -> list[str]:
    """Return the terms of an item, sorted."""
    facts = facts_of(label, metadata)
    terms = {_hash("value", *fact) for fact in facts}
    terms |= {_hash("field", name) for name, _, _ in facts}
    terms |= {_hash("kind", name, kind) for name, kind, _ in facts if kind in (NUMBER, TEXT)}
    terms |= {_hash("unsure", *group) for group, values in _ranged(facts).items() if _hazy(values)}
    return sorted(terms)


def bounds_of(label: str | None, metadata: Mapping[str, Any]) -> dict[str, float | str]:
    """Return the bounds of an item's numbers and texts."""
    bounds: dict[str, float | str] = {}
    for (name, kind), values in _ranged(facts_of(label, metadata)).items():
        location = _hash("bounds", name, kind)
        for end, value in (("a", min(values)), ("z", max(values))):
            bounds[location + end] = _bound(value)
    return bounds


def _ranged(facts: Iterable[Fact]) -> dict[tuple[str | None, int], list[Any]]:
    groups: dict[tuple[str | None, int], list[Any]] = {}
    for name, kind, value in facts:
        if kind in (NUMBER, TEXT):
            groups.setdefault((name, kind), []).append(value)
    return groups


def _hazy(values: list[Any]) -> bool:
    """Whether the least and the greatest do not tell everything about some values."""
    if isinstance(values[0], str):
        return len(values) > 2 or any(len(text.encode()) > LONGEST_TEXT for text in values)
    return any(math.isinf(number) or float(number) != number for number in values)


def _bound(value: float | str) -> float | str:
    if isinstance(value, str):
        return value.encode()[:LONGEST_TEXT].hex()
    largest = 1.7976931348623157e308
    return min(max(float(value), -largest), largest)


def among(ids: Iterable[str]) -> str:
    """Return the expression for the entities of some ids, which are hexadecimal digits."""
    return f"id in {json.dumps(list(ids))}"


# From a filter to a condition


def _all_of(query_filter: Mapping[str, Any], *, positive: bool) -> Condition:
    conditions = []
    for name, value in query_filter.items():
        if name in ("$and", "$or"):
            inner = [_all_of(one, positive=positive) for one in value]
            conditions.append(_joined(inner, every=(name == "$and") == positive))
        elif name == "$not":
            conditions.append(_all_of(value, positive=not positive))
        else:
            conditions += [_test(name, *test, positive=positive) for test in tests(name, value)]
    return _joined(conditions, every=positive)


def _joined(conditions: list[Condition], *, every: bool) -> Condition:
    if not conditions:
        return Condition(EVERYTHING if every else NOTHING, lambda _: every)
    if len(conditions) == 1:
        return conditions[0]
    operator, joined = (" and ", all) if every else (" or ", any)
    return Condition(
        operator.join(f"({one.expression})" for one in conditions),
        lambda facts: joined(one.holds(facts) for one in conditions),
        frozenset().union(*(one.unsure for one in conditions)),
    )


def _test(entry: str, operator: str, operand: Any, *, positive: bool) -> Condition:
    name = None if entry == "label" else entry
    if operator == "$ne":
        return _test(entry, "$eq", operand, positive=not positive)
    if operator in {"$in", "$nin"}:
        return _among(entry, name, operand, positive=positive is (operator == "$in"))
    if operator == "$eq" and operand is None:
        term = _hash("field", name)
        return Condition(
            _has(term, positive=not positive),
            lambda facts: any(fact[0] == name for fact in facts) is not positive,
        )
    kind, value = checked(entry, operand)
    if operator == "$eq":
        fact = (name, kind, value)
        return Condition(
            _has(_hash("value", *fact), positive=positive),
            lambda facts: (fact in facts) is positive,
        )
    return _range(name, kind, operator, value, positive=positive)


def _among(entry: str, name: str | None, options: list[Any], *, positive: bool) -> Condition:
    values = {(name, *checked(entry, one)) for one in options if one is not None}
    conditions = [_test(entry, "$eq", None, positive=positive)] if None in options else []
    if values:
        terms = sorted(_hash("value", *fact) for fact in values)
        conditions.append(
            Condition(
                _has_any(terms, positive=positive),
                lambda facts: facts.isdisjoint(values) is not positive,
            )
        )
    return _joined(conditions, every=not positive)


def _range(name: str | None, kind: int, operator: str, value: Any, *, positive: bool) -> Condition:
    location, unsure = _hash("bounds", name, kind), _hash("unsure", name, kind)
    low, high = f'bounds["{location}a"]', f'bounds["{location}z"]'
    if operator == "$prefix":
        expression = _beginning(low, high, value, positive=positive)
    else:
        expression = _compared(low, high, RANGES[operator], value, positive=positive)
    if not positive:
        expression = f"{_has(_hash('kind', name, kind), positive=False)} or {expression}"
    passes = _PASSES[operator]

    def holds(facts: set[Fact]) -> bool:
        values = (its for field, of, its in facts if (field, of) == (name, kind))
        return any(passes(its, value) for its in values) is positive

    return Condition(f"{expression} or {_has(unsure)}", holds, frozenset([unsure]))


def _beginning(low: str, high: str, prefix: str, *, positive: bool) -> str:
    digits = prefix.encode().hex()
    if len(digits) > 2 * LONGEST_TEXT:  # longer than every text that is not unsure
        return NOTHING if positive else EVERYTHING
    first, after = f'"{digits}"', f'"{digits}g"'  # g follows all digits
    if positive:
        return " or ".join(f"({end} >= {first} and {end} < {after})" for end in (low, high))
    return "(" + " and ".join(f"({end} < {first} or {end} >= {after})" for end in (low, high)) + ")"


_OPPOSITE = {">": "<=", ">=": "<", "<": ">=", "<=": ">"}
# What to ask of floats instead, where the number itself is none: 2**53 + 1 lies between two.
_BELOW_IT = {">": ">", ">=": ">", "<": "<=", "<=": "<="}
_ABOVE_IT = {">": ">=", ">=": ">=", "<": "<", "<=": "<"}


def _compared(low: str, high: str, sign: str, value: Any, *, positive: bool) -> str:
    end = high if sign.startswith(">") else low  # one value is greater: the greatest is
    if isinstance(value, str):
        sign, literal = _text_compared(sign, value)
    else:
        near = float(value)
        if near != value:
            sign = (_BELOW_IT if near < value else _ABOVE_IT)[sign]
        literal = repr(near)
    return f"{end} {sign if positive else _OPPOSITE[sign]} {literal}"


def _text_compared(sign: str, value: str) -> tuple[str, str]:
    """Return sign and literal for a text; one longer than a bound is compared by its beginning."""
    encoded = value.encode()
    if len(encoded) <= LONGEST_TEXT:
        return sign, f'"{encoded.hex()}"'
    return _BELOW_IT[sign], f'"{encoded[:LONGEST_TEXT].hex()}"'


_PASSES: dict[str, Callable[[Any, Any], bool]] = {
    "$gt": lambda own, value: bool(own > value),
    "$gte": lambda own, value: bool(own >= value),
    "$lt": lambda own, value: bool(own < value),
    "$lte": lambda own, value: bool(own <= value),
    "$prefix": lambda own, value: bool(own.startswith(value)),
}


def _has(term: str, *, positive: bool = True) -> str:
    return f'{"" if positive else "not "}array_contains(terms, "{term}")'


def _has_any(terms: list[str], *, positive: bool = True) -> str:
    return f"{'' if positive else 'not '}array_contains_any(terms, {json.dumps(terms)})"


def _hash(*values: Any) -> str:
    """Return a hash of values: 1 and 1.0, which are equal numbers, have the same, true another."""
    plain = [int(one) if isinstance(one, float) and one.is_integer() else one for one in values]
    text = json.dumps(plain, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:TERM_LENGTH]
