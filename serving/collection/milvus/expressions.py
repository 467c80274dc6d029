r"""Filters as expressions of Milvus, so that every Milvus gives the answer of `filters`.

Milvus compares JSON differently from version to version where a field is absent, null or a list,
and has no rule for texts inside of quotes that all versions share. So an expression never holds a
name or text of a user, but hashes and hexadecimal digits, and rests on three things only:
`array_contains` (`_any`), comparisons of a JSON value that is there, and/or. Two fields serve:

terms    hashes, each of one fact about the item: it has the field, has a number (a text) in it, has
         this value (or an element that is).
bounds   for ranges and prefixes: under a hash of the field's name and kind, followed by `a` the
         least and by `z` the greatest number (as float) or text (as the hexadecimal digits of
         its UTF-8: in the same order, and a beginning stays a beginning) of the field.

`not` is carried inwards to single facts, where it needs none of Milvus' three-valued logic.

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
    """A filter, ready to be asked.

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


def condition(wanted: Mapping[str, Any]) -> Condition:
    """Return a filter as a condition.

    Raises:
        UsageError: as `filters.where`.
    """
    where(wanted)  # checks it, all the way down
    return _all_of(wanted, positive=True)


def facts_of(label: str | None, metadata: Mapping[str, Any]) -> set[Fact]:
    """Everything a filter can ask of an item."""
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


def _all_of(wanted: Mapping[str, Any], *, positive: bool) -> Condition:
    parts = []
    for name, value in wanted.items():
        if name in ("$and", "$or"):
            inner = [_all_of(one, positive=positive) for one in value]
            parts.append(_joined(inner, every=(name == "$and") == positive))
        elif name == "$not":
            parts.append(_all_of(value, positive=not positive))
        else:
            parts += [_test(name, *test, positive=positive) for test in tests(name, value)]
    return _joined(parts, every=positive)


def _joined(parts: list[Condition], *, every: bool) -> Condition:
    if not parts:
        return Condition(EVERYTHING if every else NOTHING, lambda _: every)
    if len(parts) == 1:
        return parts[0]
    word, joined = (" and ", all) if every else (" or ", any)
    return Condition(
        word.join(f"({part.expression})" for part in parts),
        lambda facts: joined(part.holds(facts) for part in parts),
        frozenset().union(*(part.unsure for part in parts)),
    )


def _test(given: str, operator: str, wanted: Any, *, positive: bool) -> Condition:
    name = None if given == "label" else given
    if operator == "$ne":
        return _test(given, "$eq", wanted, positive=not positive)
    if operator == "$in":
        return _among(given, name, wanted, positive=positive)
    if operator == "$eq" and wanted is None:
        term = _hash("field", name)
        return Condition(
            _has(term, positive=not positive),
            lambda facts: any(fact[0] == name for fact in facts) is not positive,
        )
    kind, value = checked(given, wanted)
    if operator == "$eq":
        fact = (name, kind, value)
        return Condition(
            _has(_hash("value", *fact), positive=positive),
            lambda facts: (fact in facts) is positive,
        )
    return _range(name, kind, operator, value, positive=positive)


def _among(given: str, name: str | None, wanted: list[Any], *, positive: bool) -> Condition:
    values = {(name, *checked(given, one)) for one in wanted if one is not None}
    parts = [_test(given, "$eq", None, positive=positive)] if None in wanted else []
    if values:
        terms = sorted(_hash("value", *fact) for fact in values)
        parts.append(
            Condition(
                _has_any(terms, positive=positive),
                lambda facts: facts.isdisjoint(values) is not positive,
            )
        )
    return _joined(parts, every=not positive)


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
        there = (found for field, of, found in facts if (field, of) == (name, kind))
        return any(passes(found, value) for found in there) is positive

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
    """Texts as long as a bound at most; a longer one is compared by what follows its beginning."""
    encoded = value.encode()
    if len(encoded) <= LONGEST_TEXT:
        return sign, f'"{encoded.hex()}"'
    return _BELOW_IT[sign], f'"{encoded[:LONGEST_TEXT].hex()}"'


_PASSES: dict[str, Callable[[Any, Any], bool]] = {
    "$gt": lambda found, value: bool(found > value),
    "$gte": lambda found, value: bool(found >= value),
    "$lt": lambda found, value: bool(found < value),
    "$lte": lambda found, value: bool(found <= value),
    "$prefix": lambda found, value: bool(found.startswith(value)),
}


def _has(term: str, *, positive: bool = True) -> str:
    return f'{"" if positive else "not "}array_contains(terms, "{term}")'


def _has_any(terms: list[str], *, positive: bool = True) -> str:
    return f"{'' if positive else 'not '}array_contains_any(terms, {json.dumps(terms)})"


def _hash(*parts: Any) -> str:
    """Return the same for equal parts: 1 and 1.0 are equal numbers, and true is neither."""
    plain = [int(part) if isinstance(part, float) and part.is_integer() else part for part in parts]
    text = json.dumps(plain, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:TERM_LENGTH]
