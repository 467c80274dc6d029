"""The fields of each route: what they are, which values they take and what they mean.

`/docs.json` and BentoML's description are made from these models. Images are not among the fields:
they come as uploads (`request_body`), under names that are the same on all routes.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PlainValidator, ValidationInfo, WithJsonSchema, model_validator

from serving.collection import OnDuplicate
from serving.collection.contract.mixing import NEGATIVE_WEIGHT
from serving.http.engine.runtime import Runtime
from serving.http.json_text import show
from serving.http.request.errors import HttpError, invalid
from serving.http.request.fields import (
    NUMBERS,
    AtMost,
    JsonSchema,
    Limits,
    RequestFields,
    Vector,
    checked_text,
    checked_vector,
    limits_in,
)
from serving.http.request.request_body import too_many_examples, too_many_items
from serving.http.request.uploads import LINKS, Upload, decode_upload

DEFAULT_K = 10
BASE64: JsonSchema = {"type": "string", "description": "base64, a data URI or a URL"}
OBJECTS: JsonSchema = {"type": "array", "items": {"type": "object"}}

Encoding = Literal["float", "base64", "npy"]
VectorDtype = Literal["float32", "float16", "int8", "binary"]
JsonObject = dict[Any, Any]
OptionalText = Annotated[str | None, Field(min_length=1)]

Example = str | NDArray[np.float32] | Upload
"""A key, a vector [E], or an image that is not embedded yet."""

EXAMPLE_KINDS: dict[str, JsonSchema] = {
    "key": {"type": "string"},
    "vector": NUMBERS,
    "image": BASE64,
}
EXAMPLES: JsonSchema = {
    "type": "array",
    "items": {
        "oneOf": [
            {"type": "object", "properties": {name: schema}}
            for name, schema in EXAMPLE_KINDS.items()
        ]
    },
}


def limits_of(runtime: Runtime, dim: int | None = None) -> Limits:
    """Return the bounds of a service's fields; `dim` is the encoder's unless another is named."""
    settings = runtime.settings
    return Limits(
        dim=runtime.encoder.embedding_dim if dim is None else dim,
        neighbors=settings.max_neighbours,
        images=settings.max_images,
    )


def limits_of_collection(runtime: Runtime) -> Limits:
    """Return the same, for a route that is about items; raises HttpError without a collection."""
    return limits_of(runtime, runtime.collection.dim)


class EmbedFields(RequestFields):
    """Images to embed."""

    encoding_format: Annotated[
        Encoding | None, Field(description="how the embeddings come; else as Accept has it")
    ] = None
    dtype: Annotated[VectorDtype, Field(description="what their numbers are")] = "float32"


class SimilarFields(RequestFields):
    """What all searches take."""

    k: Annotated[int, Field(ge=1, description="the most neighbors"), AtMost("neighbors")] = (
        DEFAULT_K
    )
    min_score: Annotated[
        float | None, Field(ge=-1, le=1, description="the least cosine similarity")
    ] = None
    filter: Annotated[
        JsonObject | None,
        Field(description="what a neighbor must have: label or metadata fields"),
    ] = None
    exact: Annotated[
        bool, Field(description="miss nothing, whatever recall the collection promises")
    ] = False
    all: Annotated[
        bool, Field(description="all that is as similar as min_score, exactly; without k")
    ] = False
    suggest_label: Annotated[
        bool, Field(description="also the labels that the neighbors vote for")
    ] = False

    @model_validator(mode="after")
    def _check_all(self) -> Self:
        if self.all and self.min_score is None:
            raise invalid("min_score", "all is true: give min_score, the similarity to stop at")
        if self.all and "k" in self.model_fields_set:
            raise invalid("k", "all is true: leave k out, or all")
        return self


def _examples(entries: object, info: ValidationInfo) -> list[Example]:
    name = str(info.field_name)
    if not isinstance(entries, list):
        raise invalid(name, f"{name} is {show(entries)}: a JSON list is needed")
    limits = limits_in(info)
    if len(entries) > limits.images:
        raise too_many_examples(len(entries), limits.images)
    return [_example(entry, f"{name}[{slot}]", limits.dim) for slot, entry in enumerate(entries)]


def _example(entry: Any, where: str, dim: int) -> Example:
    if not isinstance(entry, dict) or len(entry) != 1 or not set(entry) <= set(EXAMPLE_KINDS):
        message = f"{where} is {show(entry)}: an object with a key, a vector or an image is needed"
        raise invalid(where, message)
    ((kind, value),) = entry.items()
    where = f"{where}.{kind}"
    if kind == "vector":
        return checked_vector(value, where, dim)
    return decode_upload(value, where) if kind == "image" else checked_text(value, where)


Examples = Annotated[Sequence[Example], PlainValidator(_examples), WithJsonSchema(EXAMPLES)]


class SearchFields(SimilarFields):
    """One image, one vector or one key to search for, or several as examples."""

    vector: Annotated[Vector, Field(description="an embedding of this encoder")] = None
    key: Annotated[OptionalText, Field(description="the key of an item")] = None
    positive: Annotated[Examples, Field(description="what neighbors are like")] = ()
    negative: Annotated[
        Examples,
        Field(description="what they are unlike; images, vector and key beside these are positive"),
    ] = ()
    negative_weight: Annotated[
        float,
        Field(ge=0, le=100, description="how much the mean of the negative examples counts"),
    ] = NEGATIVE_WEIGHT


class ListFields(RequestFields):
    """A page of items, or a random sample of them."""

    limit: Annotated[int, Field(ge=1, le=1000, description="the most items")] = 100
    after: Annotated[OptionalText, Field(description="the last key of the page before")] = None
    sample: Annotated[
        int | None, Field(ge=1, le=100, description="so many random items instead")
    ] = None


class ItemFields(RequestFields):
    """One item."""

    vector: Annotated[bool, Field(description="with its vector")] = False


class ThumbnailFields(RequestFields):
    """The thumbnail of an item."""

    size: Annotated[int, Field(ge=1, le=4096, description="in pixels")] = 192


class NewItemFields(RequestFields):
    """One new item, but for its image."""

    key: Annotated[OptionalText, Field(description="a name, unique in the collection")] = None
    label: OptionalText = None
    metadata: JsonObject = Field(default_factory=dict)
    uri: Annotated[OptionalText, Field(description="an http:// or https:// link, to be shown")] = (
        None
    )
    vector: Annotated[Vector, Field(description="instead of an image")] = None

    @model_validator(mode="after")
    def _check_uri(self) -> Self:
        if self.uri is not None and not self.uri.startswith(LINKS):
            remedy = "only http:// and https:// links are taken, to be shown"
            raise invalid("uri", f"uri is {show(self.uri)}: {remedy}")
        return self


class JsonItemFields(NewItemFields):
    """An entry of the JSON list of new items."""

    image: Annotated[Any, WithJsonSchema(BASE64)] = None


class AddFields(NewItemFields):
    """New items of a form or a raw image; several images share all fields but the key."""

    on_duplicate: OnDuplicate = "refuse"


def _rows(rows: object, info: ValidationInfo) -> list[JsonItemFields]:
    if not isinstance(rows, list) or not rows:
        raise unusable_items(rows)
    limits = limits_in(info)
    if len(rows) > limits.images:
        raise too_many_items(len(rows), limits.images)
    return [_row(row, f"items[{number}]", limits) for number, row in enumerate(rows)]


def _row(row: object, param: str, limits: Limits) -> JsonItemFields:
    if not isinstance(row, dict):
        raise invalid(param, f"{param} is {show(row)}: an object with key and image is needed")
    try:
        return JsonItemFields.read(row, limits)
    except HttpError as refusal:
        refusal.param = f"{param}.{refusal.param}"
        raise


def unusable_items(rows: object) -> HttpError:
    """Return the refusal of `items` that are not a list, or that have an image beside them."""
    message = f"items is {show(rows)}: a list of items is needed, and no image beside it"
    return invalid("items", message)


class AddListFields(RequestFields):
    """New items as a JSON list, each with its own fields."""

    items: Annotated[
        Sequence[JsonItemFields],
        PlainValidator(_rows, json_schema_input_type=list[JsonItemFields]),
    ] = ()
    on_duplicate: OnDuplicate = "refuse"


class OpenAIFields(RequestFields):
    """OpenAI's request for embeddings, with images as the input."""

    input: Annotated[
        Any, WithJsonSchema({"oneOf": [BASE64, {"type": "array", "items": BASE64}]})
    ] = None
    model: OptionalText = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int | None, Field(ge=1), AtMost("dim")] = None
    user: OptionalText = None


class InferFields(RequestFields):
    """A request of the open inference protocol; its tensors are checked in `kserve`."""

    id: str | None = None
    model_name: Annotated[str | None, Field(description="the path's counts")] = None
    model_version: Annotated[str | None, Field(description="the path's counts")] = None
    parameters: JsonObject = Field(default_factory=dict)
    inputs: Annotated[Any, WithJsonSchema(OBJECTS)] = None
    outputs: Annotated[Any, WithJsonSchema(OBJECTS)] = None
