"""The fields of a request as pydantic models: one description that checks, refuses and documents.

A route's fields are a subclass of `RequestFields` (`routes.fields`). Its JSON Schema is what
`/docs.json` and BentoML's clients receive, and what a refusal's remedy is made from:

    k is 0: a whole number from 1 to 1000 is needed

Types are strict: 1 is not true and not "1". Only what came as text, from a form or the query, is
read as JSON where the field is not a text itself.
"""

import math
from collections.abc import Mapping, Sized
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
)

from base.text import nearest
from serving.http.json_text import parse_json, show
from serving.http.request.errors import HttpError, invalid

JsonSchema = dict[str, Any]

MAX_TEXT = 2**16  # characters of a key, label, link or name
NUMBERS: JsonSchema = {"type": "array", "items": {"type": "number"}}
NEEDED = {
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "object": "a JSON object",
    "array": "a JSON list",
}


class Text(str):
    """A value that came as text, from a form or the query: numbers and JSON stand in it as text."""

    __slots__ = ()


class Limits(NamedTuple):
    """The bounds of fields that only the service knows.

    Attributes:
        dim: numbers of an embedding.
        neighbors: the largest `k`.
        images: the most images, items or examples of one request.
    """

    dim: int
    neighbors: int
    images: int


def limits_in(info: ValidationInfo) -> Limits:
    """Return the limits that `RequestFields.read` was called with."""
    assert isinstance(info.context, Limits)
    return info.context


@dataclass(frozen=True, slots=True)
class AtMost:
    """Annotation of a number that is bounded by one of the `Limits`, named here."""

    limit: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> Any:
        """Check the bound after the number's own type."""
        return AfterValidator(self._check).__get_pydantic_core_schema__(source, handler)

    def _check(self, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and value > getattr(limits_in(info), self.limit):
            raise ValueError(self.limit)
        return value


class RequestFields(BaseModel):
    """The fields of one route; absent ones have their default. Use `read`."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, arbitrary_types_allowed=True
    )
    properties: ClassVar[dict[str, JsonSchema]] = {}
    """JSON Schema of each field."""

    @classmethod
    def __pydantic_init_subclass__(cls, **_options: Any) -> None:
        """Describe the fields once, where the class is made."""
        schema = cls.model_json_schema()
        definitions = schema.get("$defs", {})
        cls.properties = {
            name: _plain(one, definitions) for name, one in schema.get("properties", {}).items()
        }

    @classmethod
    def read(cls, values: Mapping[str, Any], limits: Limits | None = None) -> Self:
        """Return the fields of a request, checked.

        Args:
            values: by name, as JSON gave them, or `Text`. None and an empty or `null` text are
                absent.
            limits: of the service; not needed where no field depends on them.

        Raises:
            HttpError: an unknown name (the message gives the nearest) or an unusable value.
        """
        properties = cls.properties
        parsed: dict[str, Any] = {}
        for name, value in values.items():
            if name not in properties:
                raise _unknown(name, tuple(properties))
            if isinstance(value, Text):
                if value not in ("", "null"):
                    as_text = properties[name].get("type") == "string"
                    parsed[name] = _unquoted(value) if as_text else _parsed(value)
            elif value is not None:
                parsed[name] = value
            _check_length(name, value, properties[name])
        try:
            return cls.model_validate(parsed, context=limits)
        except ValidationError as error:
            raise cls._refusal(error, limits) from None

    @classmethod
    def _refusal(cls, error: ValidationError, limits: Limits | None) -> HttpError:
        first = error.errors(include_url=False, include_context=False)[0]
        name = str(first["loc"][0])
        schema = dict(cls.properties[name])
        for bound in cls.model_fields[name].metadata:
            if isinstance(bound, AtMost):
                schema["maximum"] = getattr(limits, bound.limit)
        return invalid(name, f"{name} is {show(first['input'])}: {_remedy(schema)}")


def _check_length(name: str, value: object, schema: JsonSchema) -> None:
    """Refuse what is too long for any field of text, before more is done with it."""
    if schema.get("type") == "string" and isinstance(value, str) and len(value) > MAX_TEXT:
        message = f"{name} has {len(value)} characters: at most {MAX_TEXT} are taken"
        raise invalid(name, message)


def checked_text(value: object, name: str) -> str:
    """Return a text that is not empty.

    Raises:
        HttpError: it is not one.
    """
    _check_length(name, value, {"type": "string"})
    if isinstance(value, str) and value and _is_unicode(value):
        return value
    raise invalid(name, f"{name} is {show(value)}: {_remedy({'type': 'string'})}")


def checked_vector(value: object, name: str, dim: int) -> NDArray[np.float32]:
    """Return a list of numbers as float32 [dim]: finite, and not all zero.

    Raises:
        HttpError: it is not one; the message says what is wrong.
    """
    if isinstance(value, list) and len(value) > dim:
        raise _wrong_length(value, name, dim)
    if not isinstance(value, list) or not all(
        isinstance(number, int | float) and not isinstance(number, bool) for number in value
    ):
        raise invalid(name, f"{name} is {show(value)}: a list of {dim} numbers is needed")
    if len(value) != dim:
        raise _wrong_length(value, name, dim)
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


def _wrong_length(vector: Sized, name: str, dim: int) -> HttpError:
    message = f"{name} has {len(vector)} numbers: embeddings of this encoder have {dim}"
    return invalid(name, message)


def _vector(value: object, info: ValidationInfo) -> NDArray[np.float32]:
    return checked_vector(value, str(info.field_name), limits_in(info).dim)


Vector = Annotated[NDArray[np.float32] | None, PlainValidator(_vector), WithJsonSchema(NUMBERS)]
"""An embedding of the service's encoder, float32 [E]."""


def _remedy(schema: JsonSchema) -> str:
    """Return what to send instead, as the field's schema has it."""
    if "enum" in schema:
        return f"choose {' or '.join(schema['enum'])}"
    needed = NEEDED[schema["type"]]
    if "maximum" in schema:
        needed += f" from {schema['minimum']:g} to {schema['maximum']:g}"
    return f"{needed} is needed"


def _plain(schema: JsonSchema, definitions: Mapping[str, JsonSchema]) -> JsonSchema:
    """Return a schema in the words of OpenAPI 3.0: without titles, references and null."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        schema = {**definitions[name], **{key: schema[key] for key in schema if key != "$ref"}}
    plain = {key: value for key, value in schema.items() if key != "title"}
    if plain.get("default", ...) is None:
        del plain["default"]
    if kinds := plain.pop("anyOf", None):
        (kind,) = (one for one in kinds if one != {"type": "null"})
        plain = {**kind, **plain}
    if isinstance(plain.get("items"), dict):
        plain["items"] = _plain(plain["items"], definitions)
    if "properties" in plain:
        properties = plain["properties"].items()
        plain["properties"] = {name: _plain(one, definitions) for name, one in properties}
    return plain


def _is_unicode(text: str) -> bool:
    """JSON can spell half of a surrogate pair, which no text holds and no database takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _unquoted(text: Text) -> str:
    """BentoML's client writes form fields as JSON, curl as they are; both are taken."""
    value = _parsed(text) if text.startswith('"') else None
    return value if isinstance(value, str) else str(text)


def _parsed(text: Text) -> Any:
    try:
        return parse_json(text)
    except ValueError:
        return str(text)  # the refusal says what it should have been


def _unknown(name: str, names: tuple[str, ...]) -> HttpError:
    near = nearest(name, names)
    hint = f"did you mean {near}?" if near else f"this route takes {', '.join(names)}"
    message = f"{show(name)} is not known: {hint}"
    return HttpError(HTTPStatus.UNPROCESSABLE_ENTITY, "unknown-parameter", message, param=name)
