"""`positive` and `negative` of a search: lists of {"key": …}, {"vector": …} or {"image": …}.

In a form they are JSON text. The images, the key and the vector that a request names beside them
are positive examples too: so a form sends images as files.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from serving.http.engine.embedding import EmbeddedUpload
from serving.http.request.errors import HttpError
from serving.http.request.request_body import Body, too_many_examples
from serving.http.request.uploads import Upload
from serving.http.routes.answers import whole_refusal
from serving.http.routes.fields import Example, SearchFields


class ExampleQuery:
    """The examples of one request, checked but for what only the encoder and collection know.

    Attributes:
        positive: at least one, or the collection refuses.
        negative: may be empty.
        weight: of the negative ones.
    """

    def __init__(self, body: Body, fields: SearchFields, most: int) -> None:
        beside = [one for one in (fields.key, fields.vector) if one is not None]
        self.positive: list[Example] = [*body.uploads, *beside, *fields.positive]
        self.negative: list[Example] = [*fields.negative]
        self.weight = fields.negative_weight
        count = len(self.positive) + len(self.negative)
        if count > most:
            raise too_many_examples(count, most)

    @property
    def uploads(self) -> list[Upload]:
        """The images that are to be embedded."""
        return [one for one in (*self.positive, *self.negative) if isinstance(one, Upload)]

    def with_vectors(
        self, outcomes: Sequence[EmbeddedUpload | HttpError]
    ) -> tuple[list[str | NDArray[np.float32]], list[str | NDArray[np.float32]]]:
        """Return positive and negative examples with embeddings instead of the `uploads`.

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
