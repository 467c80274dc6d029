"""A TOML table to a frozen dataclass and back: every key known, every value of the right type."""

from __future__ import annotations

import dataclasses
import json
import math
import types
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from base.text import did_you_mean
from training.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from _typeshed import DataclassInstance

    T = TypeVar("T", bound=DataclassInstance)

_NO_ACCUMULATION = (
    "adding up the gradients of parts would compare a picture with those of its own part alone; "
    "training.micro_batch gives the whole batch's gradient in the memory of a part"
)

Value = bool | int | float | str | list[Any]


def read_table(cls: type[T], table: Mapping[str, Any], where: str) -> T:
    """Build a dataclass from a table; its own `__post_init__` checks the ranges.

    Args:
        cls: a dataclass with fields of bool, int, float, str, Literal, tuple[...] or `... | None`.
        table: key to TOML value.
        where: the table's name, for messages.

    Raises:
        RecipeError: an unknown key (the message names the nearest), a missing one, a wrong type.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hints = get_type_hints(cls)
    for key in table:
        if key not in fields:
            if where == "training" and "accum" in key:
                raise RecipeError(f"unknown key '{key}' in [training]: {_NO_ACCUMULATION}")
            raise RecipeError(f"unknown key '{key}' in [{where}]{did_you_mean(key, fields)}")
    required = [name for name, field in fields.items() if field.default is dataclasses.MISSING]
    for key in required:
        if key not in table:
            raise RecipeError(f"[{where}] lacks the key '{key}'")
    values = {key: _checked(value, hints[key], f"{where}.{key}") for key, value in table.items()}
    return cls(**values)


def _checked(value: object, hint: Any, where: str) -> object:
    """Return the value in the hinted type; a whole number is a fine float, nothing else is."""
    origin = get_origin(hint)
    if origin in {Union, types.UnionType}:
        kinds = get_args(hint)  # TOML has no null: `X | None` reads X
        of_strings = next((kind for kind in kinds if get_origin(kind) is Literal), kinds[0])
        return _checked(value, of_strings if isinstance(value, str) else kinds[0], where)
    if origin is Literal:
        choices = [str(choice) for choice in get_args(hint)]
        if value not in choices:
            raise RecipeError(
                f"{where} = {value!r}: not one of its values{did_you_mean(str(value), choices)}"
            )
        return value
    if origin is tuple:
        return _checked_list(value, get_args(hint), where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise RecipeError(f"{where} = {value!r}: must be of type {hint.__name__}")
    if hint is int and isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise RecipeError(f"{where} = {value}: must lie between -2^63 and 2^63 - 1")
    if isinstance(value, float) and not math.isfinite(value):
        raise RecipeError(f"{where} = {value}: must be a finite number")
    return value


def _checked_list(value: object, inner: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    """Return the list as a tuple: of so many values, or of any number where "..." ends `inner`."""
    if not isinstance(value, list | tuple) or not value:
        raise RecipeError(f"{where} = {value!r}: must be a list")
    if inner[-1] is Ellipsis:
        return tuple(_checked(v, inner[0], where) for v in value)
    if len(value) != len(inner):
        raise RecipeError(f"{where} = {value!r}: must be a list of {len(inner)} values")
    return tuple(_checked(v, kind, where) for v, kind in zip(value, inner, strict=True))


def table_of(instance: DataclassInstance) -> dict[str, Value]:
    """Return the inverse of `read_table`: tuples become lists, None is left out."""
    values = ((f.name, getattr(instance, f.name)) for f in dataclasses.fields(instance))
    return {k: _plain(v) for k, v in values if v is not None}


def _plain(value: Any) -> Value:
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def to_toml(document: Mapping[str, Value | Mapping[str, Value]]) -> str:
    """TOML text of a document with one level of tables, plain keys first."""
    lines = [f"{k} = {_literal(v)}" for k, v in document.items() if not isinstance(v, dict)]
    for name, table in document.items():
        if isinstance(table, dict):
            lines += ["", f"[{name}]", *(f"{k} = {_literal(v)}" for k, v in table.items())]
    return "\n".join(lines) + "\n"


def _literal(value: object) -> str:
    """JSON's strings, numbers, lists and booleans are TOML's, if they hold no NaN."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False).replace("\x7f", "\\u007f")
