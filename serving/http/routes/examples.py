"""`positive` and `negative` of a search: lists of {"key": …}, {"vector": …} or {"image": …}.

In a form they are JSON text. The images, the key and the vector that a request names beside them
are positive examples too: so a form sends images as files.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.collection.contract.mixing import NEGATIVE_WEIGHT
from serving.http.engine.embedding import EmbeddedUpload
from serving.http.engine.engine import Engine
from serving.http.json_text import show
from serving.http.request.errors import HttpError, invalid
from serving.http.request.form_fields import Fields, checked_vector
from serving.http.request.request_body import Body, Upload, decode_upload
from serving.http.routes.answers import whole_refusal

EXAMPLE_FIELDS = ("positive", "negative", "negative_weight")
LARGEST_WEIGHT = 100
KINDS = ("key", "vector", "image")

Example = str | NDArray[np.float32] | Upload
"""A key, a vector [E], or an image that is not embedded yet."""


class Examples:
    """The examples of one request, checked but for what only the encoder and collection know.

    Attributes:
        positive: at least one, or the collection refuses.
        negative: may be none.
        weight: of the negative ones.
    """

    def __init__(self, body: Body, fields: Fields, engine: Engine) -> None:
        dim = engine.collection.dim
        key, vector = fields.text("key"), fields.vector("vector", dim)
        beside = [one for one in (key, vector) if one is not None]
        self.positive: list[Example] = [
            *body.uploads,
            *beside,
            *_examples(fields, "positive", dim),
        ]
        self.negative: list[Example] = _examples(fields, "negative", dim)
        weight = fields.number("negative_weight", 0, LARGEST_WEIGHT)
        self.weight = NEGATIVE_WEIGHT if weight is None else weight
        count, most = len(self.positive) + len(self.negative), engine.settings.max_images
        if count > most:
            raise invalid("positive", f"there are {count} examples: send at most {most}")

    @property
    def uploads(self) -> list[Upload]:
        """The images that are to be embedded."""
        return [one for one in (*self.positive, *self.negative) if isinstance(one, Upload)]

    def with_vectors(
        self, outcomes: Sequence[EmbeddedUpload | HttpError]
    ) -> tuple[list[str | NDArray[np.float32]], list[str | NDArray[np.float32]]]:
        """Positive and negative examples with embeddings in place of the `uploads`.

        Raises:
            HttpError: an image was refused; without it the query would be another one.
        """
        if any(isinstance(one, HttpError) for one in outcomes):
            raise whole_refusal(outcomes)
        vectors = iter([one.vector for one in outcomes if isinstance(one, EmbeddedUpload)])
        return (
            [next(vectors) if isinstance(one, Upload) else one for one in self.positive],
            [next(vectors) if isinstance(one, Upload) else one for one in self.negative],
        )


def _examples(fields: Fields, name: str, dim: int) -> list[Example]:
    entries = fields.json_list(name) or []
    return [_example(entry, f"{name}[{slot}]", dim) for slot, entry in enumerate(entries)]


def _example(entry: Any, where: str, dim: int) -> Example:
    if not isinstance(entry, dict) or len(entry) != 1 or not set(entry) <= set(KINDS):
        message = f"{where} is {show(entry)}: an object with a key, a vector or an image is needed"
        raise invalid(where, message)
    ((kind, value),) = entry.items()
    where = f"{where}.{kind}"
    if kind == "vector":
        return checked_vector(value, where, dim)
    if kind == "image":
        return decode_upload(value, where)
    key = Fields({where: value}, (where,)).text(where)
    if key is None:
        raise invalid(where, f"{where} is null: the key of an item is needed")
    return key
